"""Folders on a read-only file system, as of containers: what is there is used, and what is missing is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gamegen.models.onnx import compiled
from gamegen.provenance.certificates import signer_from_environment

_MOUNT = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
SIGN = """
from gamegen.provenance.certificates import signer_from_environment
print(signer_from_environment().is_development)
"""
STORE = """
from gamegen.storage.objects import default_url
default_url()
"""
DRAW = """
import torch
from tests.test_read_only import layer, export
print(export(layer()) is not None)
"""


def layer() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 4).eval()


def export(module: nn.Module) -> object:
    return compiled("layer", module, [torch.zeros(2, 4)], [()], may_export=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gamegen").mkdir()
    namespaced = run_read_only(tmp_path, "print('mounted')")
    if namespaced.stdout != "mounted\n":
        pytest.skip(f"nothing can be mounted here: {namespaced.stderr.strip()}")
    return tmp_path


def run_read_only(folder: Path, program: str, **variables: Path) -> subprocess.CompletedProcess[str]:
    """Runs a Python program that sees the folder read-only, even if its user is root."""
    namespace = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    wrapped = f"from gamegen.process.command import run_program\nrun_program(lambda: exec({program!r}, {{}}))"
    return subprocess.run(
        [*namespace, "sh", "-c", _MOUNT, str(folder), sys.executable, "-c", wrapped],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "XDG_DATA_HOME": str(folder)}
        | {name: str(value) for name, value in variables.items()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_certificate_that_was_made_before_signs(folder: Path) -> None:
    signer_from_environment(folder / "gamegen" / "provenance")
    done = run_read_only(folder, SIGN)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize(
    ("program", "variable", "is_there"),
    [(SIGN, "GAMEGEN_C2PA_CERTIFICATE", False), (STORE, "OBJECT_STORE_URL", True)],
)
def test_a_folder_that_cannot_be_written_to_is_told_with_the_variable(
    folder: Path, program: str, variable: str, is_there: bool
) -> None:
    if is_there:
        (folder / "gamegen" / "objects").mkdir()
    done = run_read_only(folder, program)
    assert done.returncode == 2 and variable in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "set XDG_DATA_HOME" in done.stderr


def test_graphs_that_were_exported_before_are_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMEGEN_CACHE", str(folder))
    assert export(layer()) is not None
    done = run_read_only(folder, DRAW, GAMEGEN_CACHE=folder)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
