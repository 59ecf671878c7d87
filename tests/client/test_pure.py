"""The client package runs where nothing can be compiled."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

CLIENT = Path(__file__).parent.parent.parent / "client"
COMPILED = (*EXTENSION_SUFFIXES, ".so", ".pyd", ".dylib", ".dll")


def needed() -> set[str]:
    """Every package that it needs, on the oldest Python that it is for and on this one."""
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    waiting, found = [*project["dependencies"]], set()
    while waiting:
        requirement = Requirement(waiting.pop())
        marker = requirement.marker
        if requirement.name in found or (marker and not marker.evaluate({"extra": ""})):
            continue
        found.add(requirement.name)
        waiting += distribution(requirement.name).requires or []
    return found


def test_no_dependency_has_a_compiled_module():
    names = needed()
    assert "httpx" in names
    for name in names:
        compiled = [str(file) for file in distribution(name).files or () if str(file).endswith(COMPILED)]
        assert not compiled, f"{name} has compiled modules"


def test_it_is_imported_where_large_packages_cannot_be():
    script = (
        "import sys\n"
        "for name in ('torch', 'ray', 'numpy', 'pydantic', 'pydantic_core', 'fastapi', 'gamegen'):\n"
        "    sys.modules[name] = None\n"
        "from gamegen_client import Client\n"
        "Client('http://127.0.0.1:9').close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CLIENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_its_source_is_of_the_oldest_python_that_it_is_for():
    import ast

    for file in (CLIENT / "gamegen_client").glob("*.py"):
        ast.parse(file.read_text(), str(file), feature_version=(3, 9))
