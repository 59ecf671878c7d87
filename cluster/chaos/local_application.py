"""The application on this machine, with a database and replicas that can be killed."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import httpx
import psutil

from deployments.embedded_store import embedded_store
from deployments.settings import ServeSettings, load_settings
from deployments.stores import StoreUrls
from gamegen.service.database import schema
from gamegen.service.database.postgres_server import PostgresServer
from gamegen.service.safety.settings import NONE
from gamegen.telemetry import without_usage_server
from loadtest.load.server_memory import processes, trees

_REPLICA_TITLE = "ray::ServeReplica:"
_NUM_CPUS = 4
"""CPUs that Ray assigns to the replicas, whatever this machine has."""
_READY_TIMEOUT_S = 180.0
_REPLICA_TIMEOUT_S = 120.0
_DEATH_TIMEOUT_S = 10.0
_LONGEST_AWAY_S = 2.0


class Kind(StrEnum):
    """Parts that can be killed: a replica of one of five deployments, or the database."""

    GENERATOR = "Generator"
    DECODER = "Decoder"
    TEXT_ENCODER = "TextEncoder"
    INGRESS = "Ingress"
    CLERK = "Clerk"
    DATABASE = "PostgreSQL"


@dataclass(frozen=True)
class LocalApplication:
    """Running application: its URL, its stores and its database server."""

    url: str
    stores: StoreUrls
    database: PostgresServer

    def kill(self, kind: Kind, chance: random.Random) -> None:
        """Kills a part with SIGKILL; the database is started again after a moment, Serve replaces replicas.

        Raises RuntimeError if there is no such replica, and none comes.
        """
        if kind is Kind.DATABASE:
            kill_database(self.database)
            time.sleep(chance.uniform(0, _LONGEST_AWAY_S))
            self.database.ensure_running()
        else:
            _kill_replica(kind, chance)


def chaos_settings(model: str) -> ServeSettings:
    """The local settings with two generators and two ingresses; every step is told, so that it can be counted."""
    local = load_settings()
    work = dataclasses.replace(local.generator.work, lease_s=5.0, progress_every_s=0.0)
    videos = dataclasses.replace(
        local.videos,
        # An order may be unlucky more often than a service would allow.
        queue=dataclasses.replace(local.videos.queue, max_attempts=50, max_retry_s=5.0),
        # Pictures of random weights are neither good nor bad.
        safety=dataclasses.replace(
            local.videos.safety, prompt_checkers=("blocklist",), frames_checkers=(NONE,)
        ),
    )
    return dataclasses.replace(
        local,
        model=model,
        ingress=dataclasses.replace(local.ingress, replicas=2),
        world=dataclasses.replace(local.world, threads=1),
        generator=dataclasses.replace(local.generator, replicas=2, max_replicas=2, threads=1, work=work),
        clerk=dataclasses.replace(local.clerk, lease_s=5.0),
        videos=videos,
    )


@contextlib.contextmanager
def own_stores() -> Iterator[tuple[StoreUrls, PostgresServer]]:
    """Creates empty stores and a database server, which are removed afterwards."""
    with contextlib.ExitStack() as stack:
        parent = tempfile.TemporaryDirectory(prefix="gamegen-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(parent))
        (folder / "store").mkdir()
        store_url = stack.enter_context(embedded_store(folder / "store"))
        database = stack.enter_context(PostgresServer(folder / "database"))
        schema.upgrade(database.url())
        yield (
            StoreUrls(sessions=store_url, database=database.url(), objects=str(folder / "objects")),
            database,
        )


@contextlib.contextmanager
def local_application(settings: ServeSettings) -> Iterator[LocalApplication]:
    """Starts stores, Ray and the application, and stops them; raises TimeoutError if it does not answer."""
    import ray
    from ray import serve
    from ray._private import services

    from deployments.app import NAME, build_app

    with own_stores() as (stores, database):
        port = _free_port()
        with without_usage_server(services):
            ray.init(
                "local",
                num_cpus=_NUM_CPUS,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        try:
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
            serve.run(build_app(settings, stores), name=NAME, route_prefix="/")
            scene = LocalApplication(f"http://127.0.0.1:{port}", stores, database)
            wait_until_ready(scene.url)
            yield scene
            serve.delete(NAME)
        finally:
            ray.shutdown()


def wait_until_ready(url: str) -> None:
    """Waits until clips can be ordered; raises TimeoutError."""
    give_up_at = time.monotonic() + _READY_TIMEOUT_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/v1/videos", timeout=10).status_code == 200:
                return
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{url} takes no orders after {_READY_TIMEOUT_S:g} s")
        time.sleep(0.3)


def kill_database(server: PostgresServer) -> None:
    """Kills a database server with all its processes; raises RuntimeError if one of them stays."""
    main = server.main_process()
    if main is None:
        return
    others = main.children()
    main.kill()
    _, left = psutil.wait_procs([main, *others], _DEATH_TIMEOUT_S)
    if any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left):
        raise RuntimeError("the database's processes do not end")


def _kill_replica(kind: Kind, chance: random.Random) -> None:
    give_up_at = time.monotonic() + _REPLICA_TIMEOUT_S
    while True:
        own = trees(processes(), [os.getpid()])
        victims = [p for p in own if p.name.startswith(_REPLICA_TITLE) and p.name.endswith(f":{kind}")]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(victims).pid, signal.SIGKILL)
                return
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"there has been no {kind} replica for {_REPLICA_TIMEOUT_S:g} s")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
