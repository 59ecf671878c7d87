"""The folders of this user in which GameGen keeps data and caches."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """`gamegen` in XDG_DATA_HOME, or in ~/.local/share; it may not exist yet.

    Raises ValueError where neither XDG_DATA_HOME nor a home folder is known.
    """
    return _user_folder("XDG_DATA_HOME", Path(".local", "share"))


def cache_folder() -> Path:
    """`gamegen` in XDG_CACHE_HOME, or in ~/.cache; it may not exist yet.

    Raises ValueError where neither XDG_CACHE_HOME nor a home folder is known.
    """
    return _user_folder("XDG_CACHE_HOME", Path(".cache"))


def create_folder(folder: Path, remedy: str, mode: int = 0o777) -> None:
    """Creates a folder, of `mode` less the umask, and its parents, unless it is there.

    Raises ValueError that ends with `remedy` where that is not allowed, or where nothing can be written into it.
    """
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot create {folder} ({error.strerror}): {remedy}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write into {folder}: {remedy}")


def _user_folder(variable: str, below_home: Path) -> Path:
    given = os.environ.get(variable)
    if given:
        return Path(given) / "gamegen"
    try:
        return Path.home() / below_home / "gamegen"
    except RuntimeError as error:
        raise ValueError(
            f"user {os.geteuid()} has no home folder: set {variable} to a folder that this user can write to"
        ) from error
