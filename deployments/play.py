"""`gamegen play`: Ray, the Serve application and the page, on this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import logging
import os
import signal
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import websockets.sync.client
from rich.console import Console

from deployments.embedded_store import embedded_store
from deployments.environment import set_environment
from deployments.settings import DEFAULT_SETTINGS, ServeSettings, load_settings
from deployments.stores import StoreUrls
from gamegen.service.database import schema
from gamegen.service.database.embedded import reachable_database
from gamegen.storage.objects import default_url
from gamegen.telemetry import without_usage_server

_READY_TIMEOUT_S = 120.0
_READY_POLL_S = 0.3
_FIRST_WORLD = {"prompt": "desert at noon"}


def play(
    host: str = "127.0.0.1",
    port: int = 8000,
    model: str | None = None,
    settings_name: str = DEFAULT_SETTINGS,
    open_browser: bool = False,
    metrics_port: int | None = None,
) -> None:
    """Serves a model, by default that of the settings, on `http://host:port/` until Ctrl-C.

    Metrics are at `http://127.0.0.1:metrics_port/metrics`, or at a port that Ray chooses.

    Raises ValueError when a port is taken or the settings are wrong, or CheckpointError when the model is missing or
    damaged.
    """
    _check_port(host, port, "--port")
    if metrics_port is not None:
        _check_port("127.0.0.1", metrics_port, "--metrics-port")
        if metrics_port == port:
            raise ValueError(f"--port and --metrics-port are both {port}: choose another for one of them")
    settings = load_settings(settings_name)
    settings = dataclasses.replace(settings, model=model or settings.model)
    _check_model(settings.model)
    console = Console()
    stop, running = threading.Event(), contextlib.ExitStack()
    _stop_on_signals(stop)
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    started_s = time.monotonic()
    try:
        with console.status("starting Ray") as status:
            status.update("starting the stores")
            stores = _open_stores(running)
            status.update("starting Ray")
            _start(
                host=host,
                port=port,
                settings=settings,
                stores=stores,
                metrics_port=metrics_port,
                report=status.update,
            )
            # Again, because Ray installs its own handler.
            _stop_on_signals(stop)
            status.update("drawing a first picture")
            _wait_until_ready(address)
        console.print(f"[bold green]ready[/] in {time.monotonic() - started_s:.0f} s: [bold]{address}/[/]")
        if metrics_port is not None:
            console.print(f"Prometheus can read http://127.0.0.1:{metrics_port}/metrics.", style="dim")
        if not _is_loopback(host) and not os.environ.get("GAMEGEN_API_KEYS"):
            console.print(
                "Every client of this address can order clips: GAMEGEN_API_KEYS names a file of keys.",
                style="yellow",
            )
        console.print("Ctrl-C stops it. The API is described at /docs.", style="dim")
        if open_browser:
            webbrowser.open(address)
        stop.wait()
    except KeyboardInterrupt:
        pass
    finally:
        with console.status("stopping"), running:
            _shut_down()


def _open_stores(running: contextlib.ExitStack) -> StoreUrls:
    """URLs of the stores that the environment names, else of embedded ones; upgrades the database's schema."""
    store_url = os.environ.get("REDIS_URL") or running.enter_context(_temporary_store())
    database_url = running.enter_context(reachable_database())
    schema.upgrade(database_url)
    return StoreUrls(
        sessions=store_url,
        database=database_url,
        objects=os.environ.get("OBJECT_STORE_URL") or default_url(),
    )


@contextlib.contextmanager
def _temporary_store() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="gamegen-") as folder, embedded_store(Path(folder)) as url:
        yield url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(host: str, port: int, option: str) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port}: use a number from 1 to 65535")
    with socket.socket() as probe:
        # As the server does: a port that a previous run just left can be bound again at once.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror as error:
            raise ValueError(f"host {host!r} is not an address of this machine: use 127.0.0.1") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(
                f"cannot listen on {host}:{port} ({reason}): stop what uses it or choose another with {option}"
            ) from error


def _check_model(model: str) -> None:
    from gamegen.engine.variants import Variant
    from gamegen.models.checkpoint import read_card, resolve, verify

    variant = Variant.parse(model)
    variant.config()
    verify(resolve(variant.model), read_card(variant.model))


def _start(
    *,
    host: str,
    port: int,
    settings: ServeSettings,
    stores: StoreUrls,
    metrics_port: int | None,
    report: Callable[[str], None],
) -> None:
    set_environment()
    import ray
    from ray import serve
    from ray._private import services

    from deployments.app import NAME, build_app

    with without_usage_server(services):
        ray.init(
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _metrics_export_port=metrics_port,
        )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    report("starting the replicas: text encoder, world, decoder, generator, clerk")
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": host, "port": port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    serve.run(build_app(settings, stores), name=NAME, route_prefix="/")


def _wait_until_ready(address: str) -> None:
    """Waits for health, then plays one world for a moment, so that the first player finds everything warm.

    Raises ValueError with the server's reason if it is not ready within two minutes.
    """
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    with httpx.Client(base_url=address, timeout=60) as client:
        while reason := _why_not_ready(client):
            if time.monotonic() > deadline_s:
                raise ValueError(f"the server is not ready after {_READY_TIMEOUT_S:g} s: {reason}")
            time.sleep(_READY_POLL_S)
        session = client.post("/v1/sessions", json=_FIRST_WORLD).raise_for_status().json()
    stream_url = address.replace("http", "ws", 1) + session["stream_url"]
    with websockets.sync.client.connect(stream_url, max_size=None) as stream:
        stream.send(json.dumps({"type": "hello", "token": session["resume_token"]}))
        while isinstance(stream.recv(timeout=_READY_TIMEOUT_S), str):
            pass
        stream.send(json.dumps({"type": "bye"}))


def _why_not_ready(client: httpx.Client) -> str | None:
    """The reason that the server is not healthy, None for a healthy one."""
    try:
        answer = client.get("/healthz", timeout=10)
        return None if answer.is_success else answer.json()["error"]["message"]
    except (httpx.HTTPError, ValueError, LookupError) as error:
        return str(error) or type(error).__name__


def _stop_on_signals(stop: threading.Event) -> None:
    def on_signal(_number: int, _frame: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    # A service manager's SIGTERM ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, on_signal)


def _shut_down() -> None:
    import ray
    from ray import serve

    from deployments.app import NAME

    # A second Ctrl-C while this runs must not leave processes behind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if ray.is_initialized():
        # Only a replica that has ended already can fail here.
        with contextlib.suppress(Exception):
            serve.delete(NAME)
        ray.shutdown()
