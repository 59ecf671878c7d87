"""A Ray cluster of several nodes on this machine, each of which can be killed as a machine would go."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.recovery.deploy import DeployRequest
from cluster.recovery.node import STARTED, NodeConfig
from deployments.embedded_store import embedded_tcp_store
from deployments.environment import ENVIRONMENT, FAULT_TOLERANCE
from deployments.stores import StoreUrls
from gamegen.service.database import schema
from gamegen.service.database.embedded import embedded_database
from loadtest.load.server_memory import Process, processes, trees

HEAD = "head"
_WORKERS = ("worker-1", "worker-2")
_WORKER_CPUS = 1
_START_TIMEOUT_S = 90.0
_START_ATTEMPTS = 4
"""Attempts to start a node: Ray gives each of its parts 15 to 30 s, which may be too little on a busy machine."""
_STOP_TIMEOUT_S = 10.0
_MESSAGE_CHARACTERS = 3000
_REPLICA_TITLE = "ray::ServeReplica:"


class ClusterNode:
    """A node's processes."""

    def __init__(self, config: NodeConfig, environment: Mapping[str, str]) -> None:
        self._name = config.name
        self._log = Path(config.folder).with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cluster.recovery.node", config.to_json()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_started(self) -> None:
        """Waits until the node has joined the cluster; raises RuntimeError with its output if it does not."""
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while STARTED not in (written := self._log.read_text(errors="replace")).splitlines():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"node {self._name} did not start: {written[-_MESSAGE_CHARACTERS:]}")
            time.sleep(0.1)

    def processes(self) -> list[Process]:
        """All processes of the node."""
        return trees(processes(), [self._process.pid])

    def kill(self) -> None:
        """Kills all processes of the node at once, as if the machine were lost."""
        victims = self.processes()
        while victims:
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim.pid, signal.SIGKILL)
            # Processes that were started meanwhile; a dead one may be listed until it is reaped.
            known = {victim.pid for victim in victims}
            victims = [p for p in trees(processes(), known) if p.pid not in known]
        self._process.wait(_STOP_TIMEOUT_S)


class LocalCluster:
    """A head that offers no CPUs, two workers that do, and a Valkey and a PostgreSQL that outlive all of them.

    A node that was killed comes back under its name, with its proxy at the same port. All files are below `folder`.
    """

    def __init__(self, folder: Path, settings: str, model: str, stores: StoreUrls, password: str) -> None:
        self.folder = folder
        self._password = password
        self._settings = settings
        self._model = model
        self._stores = stores
        self._head_port, *ports = _free_ports(2 + len(_WORKERS))
        self._proxy_ports = dict(zip((HEAD, *_WORKERS), ports, strict=True))
        self._environment = {
            **os.environ,
            **ENVIRONMENT,
            **FAULT_TOLERANCE,
            "RAY_REDIS_ADDRESS": stores.sessions.rpartition("@")[2],
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        self._nodes: dict[str, ClusterNode] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of the worker nodes."""
        return _WORKERS

    @property
    def urls(self) -> list[str]:
        """URLs of the workers' proxies."""
        return [f"http://127.0.0.1:{self._proxy_ports[name]}" for name in _WORKERS]

    def start(self) -> None:
        """Starts all nodes; raises RuntimeError."""
        self.start_node(HEAD)
        with ThreadPoolExecutor() as threads:
            for _ in threads.map(self.start_node, _WORKERS):
                pass

    def start_node(self, name: str) -> None:
        """Starts a node that is not running; raises RuntimeError."""
        is_head = name == HEAD
        cpus = 0 if is_head else _WORKER_CPUS
        folder = str(self.folder / name)
        config = NodeConfig(
            name=name,
            is_head=is_head,
            head_port=self._head_port,
            num_cpus=cpus,
            folder=folder,
            redis_password=self._password,
            parent_pid=os.getpid(),
        )
        ports = {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self._proxy_ports[name])}
        for attempt in range(_START_ATTEMPTS):
            node = self._nodes[name] = ClusterNode(config, self._environment | ports)
            try:
                node.wait_until_started()
                return
            except RuntimeError:
                node.kill()
                if attempt == _START_ATTEMPTS - 1:
                    raise

    def serve(self, deploys: bool = True) -> None:
        """Deploys the application, or only waits for it if `deploys` is false; returns when all of it is healthy.

        Raises RuntimeError if it is not in time.
        """
        order = DeployRequest(
            head_address=f"127.0.0.1:{self._head_port}",
            settings=self._settings,
            model=self._model,
            stores=self._stores,
            port=self._proxy_ports[HEAD],
            deploys=deploys,
        )
        command = [sys.executable, "-m", "cluster.recovery.deploy", order.to_json()]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the application is not served: {done.stderr[-_MESSAGE_CHARACTERS:]}")

    def kill_node(self, name: str) -> None:
        """Kills all of a node's processes."""
        self._nodes[name].kill()

    def kill_replica(self, deployment: str, name: str) -> None:
        """Kills the replicas of a deployment on a node; raises RuntimeError if there is none."""
        running = [p for p in self._nodes[name].processes() if p.name.startswith(_REPLICA_TITLE)]
        victims = [p for p in running if p.name.endswith(f":{deployment}")]
        if not victims:
            raise RuntimeError(f"there is no {deployment} on {name}")
        for victim in victims:
            os.kill(victim.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Kills all nodes."""
        for node in self._nodes.values():
            node.kill()


@contextlib.contextmanager
def local_cluster(settings: str, model: str) -> Iterator[LocalCluster]:
    """Runs a cluster for an application that is yet to be served; raises RuntimeError if it does not start."""
    with contextlib.ExitStack() as stack:
        parent = tempfile.TemporaryDirectory(prefix="gamegen-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(parent))
        url, password = stack.enter_context(embedded_tcp_store(folder))
        database_url = stack.enter_context(embedded_database(folder / "database"))
        schema.upgrade(database_url)
        stores = StoreUrls(sessions=url, database=database_url, objects=str(folder / "objects"))
        cluster = LocalCluster(folder, settings, model, stores, password)
        stack.callback(cluster.stop)
        cluster.start()
        yield cluster


def _free_ports(count: int) -> list[int]:
    """Finds `count` different free ports of 127.0.0.1."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
