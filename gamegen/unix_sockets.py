"""Paths of Unix sockets, whose addresses have a hundred characters at most."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_SOCKET_PATH_BYTES = 107
_NAME_BYTES = 20
"""Bytes that are kept for the name of a socket file and the slash before it."""
# What clients read as it is: libpq takes a comma for the end of a host, URLs have their own signs.
_PLAIN = re.compile(rb"[A-Za-z0-9_./+@=-]*")


@contextmanager
def short_path(folder: Path) -> Iterator[Path]:
    """A path to a folder that fits a socket's address and has plain characters: `folder`, or an alias in /proc.

    An alias leads there for as long as the block runs, and only processes of this user can follow it. Names of socket
    files in the folder may have 19 bytes. Raises ValueError where an alias is needed and there is no /proc.
    """
    path = os.fsencode(folder.absolute())
    if len(path) + _NAME_BYTES <= MAX_SOCKET_PATH_BYTES and _PLAIN.fullmatch(path):
        yield folder.absolute()
        return
    if not Path("/proc/self/fd").exists():
        raise ValueError(f"no socket can be in {folder}: use a path of at most 87 plain characters")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)
