"""Errors that an operator can cause are one sentence each; faults of the program say where they arose."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import sqlalchemy
import valkey

from gamegen.process.error_sentences import describe
from gamegen.storage.interface import StorageError


def error_of(call, *arguments, **options) -> BaseException:
    """The exception that a call raises."""
    with pytest.raises(BaseException) as raised:
        call(*arguments, **options)
    return raised.value


def refuse(kind: type[Exception], message: str) -> None:
    raise kind(message)


def fail(code: int) -> None:
    raise OSError(code, os.strerror(code), "/data/worlds")


def no_database() -> None:
    sqlalchemy.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none").connect()


def run_shell(command: str) -> None:
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (error_of(Path("/nonexistent/file").read_bytes), "/nonexistent/file: no such file or directory"),
        (error_of(Path("/proc/version").mkdir), "/proc/version: file exists"),
        (error_of(fail, errno.ENOSPC), "/data/worlds: no space left on device: free some space"),
        (error_of(fail, errno.EROFS), "/data/worlds: read-only file system: choose a place"),
        (error_of(fail, errno.EMFILE), "ulimit -n 8192"),
        (error_of(run_shell, "echo no such user >&2; exit 3"), "ended with 3: no such user"),
        (error_of(subprocess.run, ["sleep", "9"], timeout=0.01), "sleep 9 has not ended after 0.01 s"),
        (error_of(no_database), "Connection refused"),
        (error_of(valkey.Valkey(port=1).ping), "the session store: "),
        (error_of(refuse, MemoryError, ""), "not enough memory: take smaller batches"),
    ],
)
def test_what_the_machine_refuses_is_a_sentence(error, words):
    found = describe(error)
    assert found.is_foreseen and words in found.sentence and "\n" not in found.sentence


def test_a_machine_without_a_temporary_folder_is_told_the_variable(monkeypatch):
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    with pytest.raises(FileNotFoundError) as caught:
        tempfile._get_default_tempdir()
    assert describe(caught.value).sentence.endswith("set TMPDIR to a folder that this user can write to")


def test_refusals_of_this_program_are_left_as_they_are():
    from gamegen.config import config_file

    error = error_of(config_file, "stages", "atlantis")
    assert describe(error) == (str(error), True)
    assert issubclass(StorageError, ValueError)


def test_a_fault_says_where_it_arose():
    error = error_of(lambda: {}["key"])
    found = describe(error)
    assert not found.is_foreseen
    assert "KeyError in" in found.sentence and f"{__file__}, line" in found.sentence


def test_failures_of_rays_tasks_are_those_of_their_code():
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError, WorkerGroupError

    remote = (
        'Traceback (most recent call last):\n  File "/app/gamegen/flow.py", line 7, in f\n'
        '    raise ValueError("steps = 0: use at least 1")\nValueError: steps = 0: use at least 1\n'
    )
    task = RayTaskError("f", remote, ValueError("steps = 0: use at least 1")).as_instanceof_cause()
    assert describe(task) == ("steps = 0: use at least 1", True)
    assert describe(ControllerError(task)) == ("steps = 0: use at least 1", True)
    assert describe(WorkerGroupError("rank 0", {0: task})) == ("steps = 0: use at least 1", True)
    full = OSError(errno.ENOSPC, "No space left on device", "/data")
    assert describe(RayTaskError("f", remote, full)).sentence.startswith("/data: no space left")
    elsewhere = RayTaskError("f", remote.replace("gamegen/flow", "torch/flow"), ValueError("shape"))
    assert describe(elsewhere) == ("shape (ValueError in /app/torch/flow.py, line 7)", False)


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `gamegen` as people run it."""
    return subprocess.run(
        [sys.executable, "-m", "gamegen.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | variables,
    )


def test_debug_shows_the_traceback_too():
    short = command("info", "--model", "atlantis")
    assert short.returncode == 2
    assert short.stderr.startswith("gamegen: no checkpoint at 'atlantis'") and short.stderr.count("\n") == 1
    long = command("info", "--model", "atlantis", "--debug")
    assert long.returncode == 2 and "Traceback" in long.stderr and "gamegen: no checkpoint" in long.stderr


def test_a_terminal_of_ascii_alone_ends_no_command():
    done = command("info", "--model", "wälder", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2 and done.stderr.startswith("gamegen: no checkpoint at"), done.stderr


def test_output_that_nobody_reads_ends_quietly():
    words = f"{sys.executable} -m gamegen.cli info | head -c 1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr == ""
