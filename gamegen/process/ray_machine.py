"""What Ray needs of the machine: short paths for its sockets, open files, and a key that can be kept.

Only names of variables and folders are known here; nothing imports Ray.
"""

from __future__ import annotations

import os
import resource
import secrets
import tempfile
from pathlib import Path

_MAX_PATH_CHARACTERS = 36
"""A socket's path has at most 107 bytes, of which Ray's session folder and the socket's name take up to 71."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_MIN_OPEN_FILES, _WANTED_OPEN_FILES = 1024, 65536
_TOKEN_FILE = Path(".ray") / "auth_token"


def prepare_machine() -> None:
    """Makes the machine fit for Ray as far as it can; raises ValueError with what to set where it cannot."""
    os.environ["RAY_TMPDIR"] = str(short_folder())
    _raise_open_files()
    _provide_token()


def short_folder() -> Path:
    """A temporary folder with a path that is short enough for sockets; raises ValueError if there is none.

    RAY_TMPDIR if it is set, else the usual folder (TMPDIR), else /tmp, /var/tmp or /dev/shm.
    """
    if given := os.environ.get("RAY_TMPDIR"):
        _check_folder(Path(given))
        return Path(given)
    for name in (os.environ.get("TMPDIR", ""), *_SHORT_FOLDERS):
        if name and _is_short(name) and os.access(name, os.W_OK | os.X_OK):
            return Path(name)
    raise ValueError(
        "no temporary folder can be written to and has a path short enough for sockets: set RAY_TMPDIR to one of at "
        f"most {_MAX_PATH_CHARACTERS} characters"
    )


def logs_folder() -> Path:
    """The folder of the logs of the Ray that was started last."""
    base = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    return Path(base) / "ray" / "session_latest" / "logs"


def _check_folder(folder: Path) -> None:
    if not _is_short(str(folder)):
        raise ValueError(
            f"RAY_TMPDIR = {folder} is too long for the paths of sockets: use a folder of at most "
            f"{_MAX_PATH_CHARACTERS} characters"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"RAY_TMPDIR = {folder} is no folder that can be written to: use another one")


def _is_short(path: str) -> bool:
    return len(os.fsencode(path)) <= _MAX_PATH_CHARACTERS


def _raise_open_files() -> None:
    """Raises the limit on open files for this process and its children, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_OPEN_FILES)
    if allowed < _MIN_OPEN_FILES:
        raise ValueError(
            f"a process may have {allowed} open files here, Ray needs {_MIN_OPEN_FILES}: raise the limit "
            "(ulimit -n 8192, LimitNOFILE= of systemd, --ulimit nofile=8192 of docker run)"
        )
    if soft == resource.RLIM_INFINITY or soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _provide_token() -> None:
    """Makes up the token by which processes of a local Ray know each other, where the home folder can keep none."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    if not _can_keep(Path("~").expanduser() / _TOKEN_FILE):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _can_keep(file: Path) -> bool:
    if file.exists():
        return os.access(file, os.R_OK)
    nearest = next(folder for folder in file.absolute().parents if folder.exists())
    return os.access(nearest, os.W_OK | os.X_OK)
