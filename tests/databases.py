"""Databases and orders for tests."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, make_url, text

from gamegen.database import schema
from gamegen.database.connection import connect_blocking
from gamegen.database.embedded import embedded_database
from gamegen.database.tables import generations
from gamegen.videos.order import Order

TEMPLATE = "with_tables"


@contextmanager
def database_server() -> Iterator[str]:
    """A PostgreSQL that holds a database with the tables, to make others from."""
    # Names of sockets may have 107 characters at most.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, embedded_database(Path(folder) / "db") as url:
        _administer(url, f"create database {TEMPLATE}")
        schema.upgrade(_named(url, TEMPLATE))
        yield url


def older_programs() -> Path | None:
    """Where Debian's PostgreSQL is, if it is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[0] if found else None


@contextmanager
def older_server() -> Iterator[str]:
    """Debian's PostgreSQL, on a socket of its own."""
    programs = older_programs()
    assert programs
    # It refuses to be run by root.
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        if prefix:
            shutil.chown(folder, "postgres")
        run = functools.partial(subprocess.run, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        data = f"{folder}/db"
        run(
            [
                *prefix,
                str(programs / "initdb"),
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "-N",
                "-D",
                data,
            ]
        )
        control = [*prefix, str(programs / "pg_ctl"), "-w", "-D", data]
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run([*control, "-o", options, "-l", f"{folder}/log", "start"])
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            run([*control, "-m", "immediate", "stop"])


@contextmanager
def fresh_database(server_url: str, template: str = TEMPLATE) -> Iterator[str]:
    """A database of one's own on that server, with empty tables (with none from `template0`)."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    _administer(server_url, f"create database {name} template {template}")
    yield _named(server_url, name)
    _administer(server_url, f"drop database {name} with (force)")


def order_row(name: str, **changes: Any) -> dict[str, Any]:
    """A row of `generations`: a waiting order, with changes."""
    order = Order("nano", f"a world for {name}", "", "first", 160, 96, 8, 24, 4, 1.0, 7)
    row = {
        "id": name,
        "account": "local",
        "body_hash": name,
        "state": "QUEUED",
        "tier": "standard",
        "priority": 5,
        "rank": 0.0,
        "order": asdict(order),
        "batch_key": order.batch_key,
        "content_hash": order.content_hash,
        "num_steps": 8,
    }
    return row | changes


def insert_orders(connection: Connection, *rows: dict[str, Any]) -> None:
    """Writes rows of `generations`."""
    for row in rows:
        connection.execute(generations.insert(), row)


def _administer(url: str, command: str) -> None:
    engine = connect_blocking(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(command))
    engine.dispose()


def _named(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)
