"""`gamegen play`: Ray, the Serve application and the page, on this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from deployments.embedded_store import embedded_store
from deployments.listen_address import ListenAddress
from deployments.local_server import LocalServer
from deployments.sessions.valkey_client import check_store
from deployments.settings import DEFAULT_SETTINGS, load_settings
from deployments.start_steps import StartSteps, StoppedError
from deployments.stores import StoreUrls
from gamegen.process.proxies import is_loopback
from gamegen.process.ray_machine import prepare_machine
from gamegen.process.signals import deliverable, run_until_signal
from gamegen.service.database.embedded import reachable_database
from gamegen.service.database.preparation import prepare_database
from gamegen.storage.objects import default_url

_STOP_TIMEOUT_S = 120.0


def play(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    model: str | None = None,
    settings_name: str = DEFAULT_SETTINGS,
    metrics_port: int | None = None,
    allowed_origins: Sequence[str] = (),
) -> None:
    """Serves a model, by default that of the settings, on `http://host:port/` until Ctrl-C.

    Metrics are at `http://127.0.0.1:metrics_port/metrics`, or at a port that Ray chooses. Pages of `allowed_origins`
    may use the server, beside its own and those of the settings.

    Raises ValueError when a port is taken or the settings are wrong, or CheckpointError when the model is missing or
    damaged.
    """
    address = ListenAddress(host, port)
    address.check("--port")
    if metrics_port is not None:
        ListenAddress("127.0.0.1", metrics_port).check("--metrics-port")
        if metrics_port == port:
            raise ValueError(f"--port and --metrics-port are both {port}: choose another for one of them")
    settings = load_settings(settings_name)
    settings = dataclasses.replace(
        settings,
        model=model or settings.model,
        ingress=dataclasses.replace(
            settings.ingress, allowed_origins=(*settings.ingress.allowed_origins, *allowed_origins)
        ),
    )
    _check_model(settings.model)
    prepare_machine()

    def serve(told_to_stop: threading.Event) -> None:
        console = Console()
        server, steps = LocalServer(address), StartSteps(console, told_to_stop)
        with contextlib.ExitStack() as running:
            try:
                steps.done("loading", steps.total_s, [])
                with steps.step("starting the stores"):
                    stores = _open_stores(running)
                logs = server.start(settings, stores, metrics_port, steps)
                _announce(console, address, metrics_port, steps.total_s, logs)
                told_to_stop.wait()
            except StoppedError:
                pass
            finally:
                with console.status("stopping"):
                    server.stop()

    # In a thread of its own, so that a signal finds no native code that it would make abort.
    run_until_signal(serve, _STOP_TIMEOUT_S)


def _announce(
    console: Console, address: ListenAddress, metrics_port: int | None, total_s: float, logs: Path
) -> None:
    console.print(f"[bold green]ready[/] in {total_s:.0f} s: [bold]{address.url}/[/]", soft_wrap=True)
    console.print(f"Logs are in {logs}, those of the replicas in serve/ there.", style="dim", soft_wrap=True)
    if metrics_port is not None:
        console.print(f"Prometheus can read http://127.0.0.1:{metrics_port}/metrics.", style="dim")
    if not is_loopback(address.host) and not os.environ.get("GAMEGEN_API_KEYS"):
        console.print(
            "Every client of this address can order clips: GAMEGEN_API_KEYS names a file of keys.",
            style="yellow",
        )
    console.print("Ctrl-C stops it. The API is described at /docs.", style="dim")


def _open_stores(running: contextlib.ExitStack) -> StoreUrls:
    """URLs of the stores that the environment names, else of embedded ones; upgrades the database's schema."""
    store_url = os.environ.get("REDIS_URL") or _open_temporary_store(running)
    check_store(store_url)
    database_url = running.enter_context(reachable_database())
    prepare_database(database_url)
    return StoreUrls(
        sessions=store_url,
        database=database_url,
        objects=os.environ.get("OBJECT_STORE_URL") or default_url(),
    )


def _open_temporary_store(running: contextlib.ExitStack) -> str:
    folder = running.enter_context(tempfile.TemporaryDirectory(prefix="gamegen-"))
    with deliverable():
        return running.enter_context(embedded_store(Path(folder)))


def _check_model(model: str) -> None:
    from gamegen.engine.variants import Variant
    from gamegen.models.checkpoint import read_card, resolve, verify

    variant = Variant.parse(model)
    variant.config()
    verify(resolve(variant.model), read_card(variant.model))
