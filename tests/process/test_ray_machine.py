"""What Ray needs of the machine is provided, or one sentence says what to set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gamegen.process import ray_machine

LONG = "/tmp/jobs-of-a-scheduler-that-writes-out-whole-names-of-users"


@pytest.fixture(autouse=True)
def kept_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables as they were, after each test."""
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HOME"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        if not os.environ[name]:
            monkeypatch.delenv(name)


def test_a_long_temporary_folder_is_not_used_for_sockets(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folder = tmp_path / LONG.removeprefix("/tmp/")
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    assert ray_machine.short_folder() == Path("/tmp")
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert ray_machine.short_folder() == Path("/var/tmp")
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    assert ray_machine.short_folder() == Path("/tmp")


@pytest.mark.parametrize("folder", [LONG, "/nonexistent"])
def test_a_folder_that_cannot_be_used_is_refused_by_name(monkeypatch, folder):
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(ValueError, match=f"RAY_TMPDIR = {folder} .* use a"):
        ray_machine.short_folder()


def test_a_machine_without_any_folder_says_what_to_set(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", LONG)
    monkeypatch.setattr(ray_machine, "_SHORT_FOLDERS", ("/nonexistent",))
    with pytest.raises(ValueError, match="set RAY_TMPDIR to one of at most 36 characters"):
        ray_machine.short_folder()


def test_the_limit_on_open_files_is_raised_or_named():
    program = (
        "import resource; from gamegen.process.ray_machine import prepare_machine\n"
        "prepare_machine(); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )

    def with_limits(limits: str) -> subprocess.CompletedProcess[str]:
        words = ["bash", "-c", f'ulimit {limits}; exec "$0" -c "$1"', sys.executable, program]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    assert with_limits("-Sn 256; ulimit -Hn 4096").stdout == "4096\n"
    refused = with_limits("-n 256")
    assert "256 open files here, Ray needs 1024: raise the limit (ulimit -n 8192" in refused.stderr


def test_a_home_that_cannot_be_written_to_gets_a_token_of_its_own(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_machine.prepare_machine()
    assert "RAY_AUTH_TOKEN" not in os.environ
    # No folder, so that not even root can make one there.
    monkeypatch.setenv("HOME", "/dev/null")
    ray_machine.prepare_machine()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
