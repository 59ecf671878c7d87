"""The wheel under the other version of Python that it says it is for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.packaging.distribution import Distribution

OTHER = (3, 12) if sys.version_info[:2] == (3, 11) else (3, 11)
_COMPILE = "import compileall, sys; sys.exit(not compileall.compile_dir(sys.argv[1], quiet=1))"


def other_python() -> str | None:
    """An interpreter of the other version, on the path or among those of pyenv; None if there is none."""
    name = ".".join(map(str, OTHER))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{name}"), *map(str, sorted(pyenv.glob(f"{name}.*/bin/python{name}")))]
    for python in filter(None, candidates):
        # A shim of pyenv is there for versions that are not chosen, too.
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    return None


def test_the_other_python_compiles_all_of_it_and_sets_the_switches(
    distribution: Distribution, tmp_path: Path
) -> None:
    python = other_python()
    if python is None:
        pytest.skip(f"no Python {'.'.join(map(str, OTHER))} on this machine")
    with zipfile.ZipFile(distribution.wheel) as wheel:
        wheel.extractall(tmp_path, [name for name in wheel.namelist() if name.endswith((".py", "METADATA"))])
    done = subprocess.run(
        [python, "-W", "error", "-c", _COMPILE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    show = (
        "import gamegen, os, importlib.metadata as m; "
        "print(os.environ['ORT_DISABLE_TELEMETRY'], m.metadata('gamegen')['Requires-Python'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    shown = subprocess.run(
        [python, "-c", show],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["1", "<3.13,>=3.11"]
