"""One Ray node as a process of its own: `python -m cluster.recovery.node '{"name": "worker-1", ...}'`.

`ray start` does the same, but starts no second node where Ray listens on the loopback address alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time

_WATCH_INTERVAL_S = 0.5
STARTED = "started"
"""Line that it prints when the node has joined."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """A node of the cluster whose head is at `head_port`; its files are below `folder`.

    `num_cpus` is what it offers to replicas; a head should offer none. It ends when `parent_pid` is not its parent.
    """

    name: str
    is_head: bool
    head_port: int
    num_cpus: int
    folder: str
    redis_password: str
    parent_pid: int
    object_store_bytes: int = 80 * 2**20

    def to_json(self) -> str:
        """JSON for the command line."""
        return json.dumps(dataclasses.asdict(self))


def run(config: NodeConfig) -> None:
    """Runs a node until SIGTERM, or until one of its parts or its parent process has ended."""
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    port = config.head_port
    place = {"gcs_server_port": port} if config.is_head else {"gcs_address": f"127.0.0.1:{port}"}
    parameters = RayParams(
        node_ip_address="127.0.0.1",
        node_name=config.name,
        num_cpus=config.num_cpus,
        num_gpus=0,
        temp_dir=config.folder,
        object_store_memory=config.object_store_bytes,
        redis_password=config.redis_password,
        include_dashboard=False,
        dashboard_agent_listen_port=0,
        include_log_monitor=False,  # type: ignore[arg-type]
        no_monitor=True,
        **place,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # The reaper ends all of its processes when this one is gone, however it went.
    node = Node(parameters, head=config.is_head, shutdown_at_exit=True, spawn_reaper=True)
    print(STARTED, flush=True)
    while os.getppid() == config.parent_pid:
        if dead := node.dead_processes():
            sys.exit(f"the node ends without its {', '.join(name for name, _ in dead)}")
        time.sleep(_WATCH_INTERVAL_S)


if __name__ == "__main__":
    from deployments.environment import set_environment

    set_environment()
    run(NodeConfig(**json.loads(sys.argv[1])))
