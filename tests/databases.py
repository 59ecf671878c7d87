"""Databases and orders for tests."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from gamegen.service.database.tables import generations
from tests.service.orders.orders import order


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
        settings = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "-N"]
        run([*prefix, str(programs / "initdb"), *settings, "-D", data])
        control = [*prefix, str(programs / "pg_ctl"), "-w", "-D", data]
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run([*control, "-o", options, "-l", f"{folder}/log", "start"])
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            run([*control, "-m", "immediate", "stop"])


def order_row(name: str, **changes: Any) -> dict[str, Any]:
    """A row of `generations`: a waiting order, with changes."""
    ordered = order(prompt=f"a world for {name}", perspective="first", guidance_scale=1.0, seed=7)
    row = {
        "id": name,
        "account": "local",
        "body_hash": name,
        "state": "QUEUED",
        "tier": "standard",
        "priority": 5,
        "rank": 0.0,
        "order": ordered.to_dict(),
        "batch_key": ordered.batch_key,
        "content_hash": ordered.content_hash,
        "num_steps": 8,
    }
    return row | changes


def insert_orders(connection: Connection, *rows: dict[str, Any]) -> None:
    """Writes rows of `generations`."""
    for row in rows:
        connection.execute(generations.insert(), row)
