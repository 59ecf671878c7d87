"""The database server is killed in the middle of everything: callers see a delay."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short name that the server's user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="pg") as name:
        Path(name).chmod(0o711)
        yield Path(name) / "data"


def kill(folder: Path) -> None:
    """Ends the server as a power cut would."""
    main = int((folder / "postmaster.pid").read_text().split()[0])
    os.kill(main, signal.SIGKILL)
