"""Builds the sdist of the tracked files and the wheel of that sdist, and installs the wheel somewhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
OTHER_PYTHON = "GAMEGEN_OTHER_PYTHON"
"""Variable with an interpreter that has the dependencies: what is installed is tested with it instead."""
_BUILD_SDIST = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"


@dataclass(frozen=True)
class Distribution:
    """The files that were built."""

    sdist: Path
    wheel: Path


def tracked_files(*folders: str) -> list[str]:
    """Files that git keeps below folders of the repository, or all of them."""
    command = ["git", "ls-files", "-z", "--", *folders]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]


def build(folder: Path) -> Distribution:
    """Builds both in a copy, so that neither untracked files nor earlier builds get into them."""
    source, output = folder / "source", folder / "dist"
    for name in tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, source / name)
    output.mkdir()
    sdist = output / _run([sys.executable, "-c", _BUILD_SDIST, str(output)], source).split()[-1]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "pip", "wheel", *offline, "-w", str(output), str(sdist)], folder)
    (wheel,) = output.glob("*.whl")
    return Distribution(sdist, wheel)


def install(wheel: Path, folder: Path) -> Path:
    """Installs a wheel into a new virtual environment, which sees the dependencies of this one; returns its `bin`."""
    python = os.environ.get(OTHER_PYTHON, sys.executable)
    _run([python, "-m", "venv", "--without-pip", str(folder)], folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = (
        sysconfig.get_path("purelib")
        if python == sys.executable
        else _run([python, "-c", ask], folder).strip()
    )
    (packages / "dependencies.pth").write_text(f"{purelib}\n")
    offline = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    _run([*pip, "install", *offline, str(wheel)], folder)
    return folder / "bin"


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of a user who knows nothing of the repository."""
    named = ("PATH", "TMPDIR", "OMP_NUM_THREADS")
    kept = {name: os.environ[name] for name in named if name in os.environ}
    return {**kept, "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb", "COLUMNS": "200"}


def _run(command: Sequence[str], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
