"""Embedded PostgreSQL server, for users who name no database."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gamegen.folders import create_folder, data_folder
from gamegen.service.database.connection import checked_url, database_url
from gamegen.service.database.postgres_account import REMEDY
from gamegen.service.database.postgres_server import PostgresServer

_log = logging.getLogger(__name__)
_LOOKS_AGAIN_S = 1.0


@contextmanager
def embedded_database(folder: Path) -> Iterator[str]:
    """Runs PostgreSQL 18 on `folder`; yields its URL, a socket file there that only this user can open.

    The data stay in the folder. `folder` is made; its parent must exist. Raises DatabaseStartError if it cannot start.
    """
    with PostgresServer(folder) as server:
        yield server.url()


@contextmanager
def kept_running(server: PostgresServer) -> Iterator[None]:
    """Restarts a server whenever it dies, which callers see as a delay."""
    is_over = threading.Event()

    def keep() -> None:
        while not is_over.wait(_LOOKS_AGAIN_S):
            try:
                if server.is_dead():
                    server.ensure_running()
            except Exception as error:
                _log.warning("the database cannot be restarted yet: %s", error)

    thread = threading.Thread(target=keep, name="database", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def default_folder() -> Path:
    """Folder of this user's embedded server; raises ValueError if no folder for data is known."""
    return data_folder() / "database"


@contextmanager
def reachable_database(url: str | None = None) -> Iterator[str]:
    """The given URL, else DATABASE_URL, else the URL of this user's embedded server, which is kept running.

    Raises ValueError for a bad URL, or if the embedded server cannot start.
    """
    if url := url or database_url():
        yield checked_url(url)
        return
    folder = default_folder()
    create_folder(folder.parent, f"set XDG_DATA_HOME to a folder that this user can write to, or {REMEDY}")
    with PostgresServer(folder) as server, kept_running(server):
        yield server.url()
