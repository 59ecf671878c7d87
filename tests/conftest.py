"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployments.environment import set_environment
from gamegen.process.command import run_command

if TYPE_CHECKING:
    import typer

    from deployments.stores import StoreUrls
    from gamegen.storage.objects import ObjectStore
    from tests.clip_server import ClipServer
    from tests.workshop import Workshop

# Models of a few thousand weights compute quicker in one thread than in several that wait for each other at every
# operation. PyTorch reads this, and Ray what follows, when it is first imported: this file comes before any test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Graphs of the tiny model are kept with the tests, those of the person who runs them are left alone.
os.environ["GAMEGEN_CACHE"] = str(Path(__file__).parent / "data" / "graphs")
# Ray's workers would stand behind every other process, and wait as long as other tests compute.
os.environ.setdefault("RAY_worker_niceness", "0")
# A worker that has nothing to do ends after a second, and the next task starts another: loading Ray and PyTorch again.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "30000")
# Processes that Ray Train begins on clusters only.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
set_environment()

pytest_plugins = ["tests.application", "tests.sharing"]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must end with exit code 2; returns the sentence on stderr."""

    def refused(app: typer.Typer, *arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["gamegen", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_command(app)
        assert ended.value.code == 2
        return capsys.readouterr().err

    return refused


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One small local Ray for the whole session: starting one takes seconds, so tests share it."""
    import ray
    from ray._private import services

    from gamegen.telemetry import without_usage_server

    with without_usage_server(services):
        ray.init(num_cpus=2, include_dashboard=False, ignore_reinit_error=True, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def serve_address(ray_cluster: None) -> Iterator[str]:
    """The address at which Ray Serve answers; `application` says what it serves."""
    from ray import serve

    from tests.serving import free_port

    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running session store."""
    from deployments.embedded_store import embedded_store

    with embedded_store(tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture(scope="session")
def stores(
    store_url: str, database_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StoreUrls]:
    """Where the applications of the tests keep what outlives their processes."""
    from deployments.stores import StoreUrls

    for database_url in new_database(database_server, "template"):
        yield StoreUrls(
            sessions=store_url, database=database_url, objects=str(tmp_path_factory.mktemp("objects"))
        )


@pytest.fixture(scope="session")
def database_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running PostgreSQL with a database `template` of the newest schema."""
    from sqlalchemy import make_url, text

    from gamegen.service.database import schema
    from gamegen.service.database.connection import connect_blocking
    from gamegen.service.database.embedded import embedded_database

    with embedded_database(tmp_path_factory.mktemp("server") / "database") as url:
        engine = connect_blocking(url).execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            # What a power cut would lose is of no use here.
            for statement in ("alter system set fsync = off", "select pg_reload_conf()"):
                connection.execute(text(statement))
            connection.execute(text("create database template"))
        engine.dispose()
        schema.upgrade(make_url(url).set(database="template").render_as_string(hide_password=False))
        yield url


@pytest.fixture
def empty_database_url(database_server: str) -> Iterator[str]:
    """A database without any tables."""
    yield from new_database(database_server, "template0")


@pytest.fixture
def database_url(database_server: str) -> Iterator[str]:
    """A database of the newest schema, for one test alone."""
    yield from new_database(database_server, "template")


@pytest.fixture
async def workshop(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Workshop]:
    """An empty queue for clip workers, where a failed order may be tried again at once, three times."""
    from gamegen.provenance.certificates import signer_from_environment
    from gamegen.service.database.connection import connect
    from gamegen.service.orders.listen import Listener
    from gamegen.service.orders.queue import VideoQueue
    from gamegen.service.orders.tiers import QueueSettings
    from gamegen.storage.objects import LocalStore
    from tests.workshop import Workshop

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    engine = connect(database_url)
    queue = VideoQueue(engine, QueueSettings(retry_s=0, max_attempts=3))
    async with Listener(database_url) as listener:
        yield Workshop(engine, queue, listener, LocalStore(tmp_path / "store"), signer_from_environment())
    await engine.dispose()


@pytest.fixture(scope="session")
def clip_server(database_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClipServer]:
    """A clip service without API keys that draws nothing: orders end by what their prompts say."""
    from tests.clip_server import ClipServer

    folder = tmp_path_factory.mktemp("objects")
    with (
        contextmanager(new_database)(database_server, "template") as url,
        ClipServer(url, folder).running() as server,
    ):
        yield server


def new_database(server: str, template: str) -> Iterator[str]:
    from sqlalchemy import make_url, text

    from gamegen.service.database.connection import connect_blocking

    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = connect_blocking(server).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name} template {template}"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"drop database {name} with (force)"))
    engine.dispose()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, every part at its smallest."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    return folder


def save_tiny(folder: Path) -> None:
    """Writes the checkpoint of `tiny_model`."""
    from gamegen.models.checkpoint import save_random
    from gamegen.models.model import ModelConfig

    save_random(folder, ModelConfig.tiny())


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of a running S3 service."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket of that service, which boto3 finds by the environment."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    if "worlds" in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        for item in client.list_objects_v2(Bucket="worlds").get("Contents", ()):
            client.delete_object(Bucket="worlds", Key=item["Key"])
    else:
        client.create_bucket(Bucket="worlds")
    return "worlds"


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Each kind of object store in turn."""
    from gamegen.storage.objects import LocalStore, S3Store

    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    return S3Store(request.getfixturevalue("s3_bucket"), "gamegen")


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def gamegen(monkeypatch, capsys) -> Callable[..., Done]:
    """Runs the command line in this process, which has loaded PyTorch and Ray already."""

    from gamegen import cli

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["gamegen", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streaming decoders compute in float32, also on CPUs that multiply bfloat16 faster."""
    import torch

    monkeypatch.setattr("gamegen.engine.latent_decoder.compute_dtype", lambda device: torch.float32)
