"""What a database lacks is told at the start, and nothing waits for ever behind a pooler in transaction mode."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
from sqlalchemy import make_url, select, text

from gamegen.service.database import schema
from gamegen.service.database.connection import connect, connect_blocking
from gamegen.service.database.preparation import prepare_database
from gamegen.service.database.tables import generations
from gamegen.service.retention.retention import Retention
from gamegen.service.retention.settings import RemovedCounts
from gamegen.storage.objects import LocalStore
from tests.service.database.pooler import pooled


def test_a_database_is_checked_and_brought_up_to_date(empty_database_url) -> None:
    prepare_database(empty_database_url)
    assert schema.current(empty_database_url) == schema.revisions()[-1]


@pytest.mark.parametrize("size", [1, 3])
def test_a_pooler_in_transaction_mode_is_found_out_before_anything_is_changed(
    empty_database_url, size
) -> None:
    with (
        pooled(empty_database_url, size + 1) as url,
        pytest.raises(ValueError, match="DATABASE_URL leads through a pooler in transaction mode"),
    ):
        # Nothing is ever heard, however long one listens.
        prepare_database(url, heard_within_s=0.2)
    assert schema.current(empty_database_url) is None


def test_commands_work_behind_a_pooler_as_often_as_they_are_run(empty_database_url, tmp_path) -> None:
    async def retain(url: str) -> list[RemovedCounts | None]:
        engine = connect(url, pool_size=2, prepares=False)
        try:
            return [await Retention(engine, LocalStore(tmp_path)).run() for _ in range(4)]
        finally:
            await engine.dispose()

    with pooled(empty_database_url, 3) as url:
        for _ in range(3):
            schema.upgrade(url, lock_timeout_s=30)
        assert asyncio.run(retain(url)) == [RemovedCounts()] * 4
        engine = connect_blocking(url)
        for number in range(30):
            with engine.connect() as connection:
                assert not connection.execute(
                    select(generations.c.id).where(generations.c.id == f"{number}")
                ).all()
        engine.dispose()


def test_a_server_that_vanishes_without_a_word_is_noticed_by_every_pool(empty_database_url) -> None:
    async def asynchronous(url: str) -> dict[str, int]:
        engine = connect(url, pool_size=1, prepares=False)
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            options = socket_options(raw.driver_connection)
        await engine.dispose()
        return options

    # Through a socket of TCP.
    with pooled(empty_database_url, 2) as url:
        engine = connect_blocking(url)
        with engine.connect() as connection:
            blocking = socket_options(connection.connection.driver_connection)
        engine.dispose()
        for options in (blocking, asyncio.run(asynchronous(url))):
            assert options["SO_KEEPALIVE"] and options["TCP_USER_TIMEOUT"] <= 30_000
            probes_s = options["TCP_KEEPINTVL"] * options["TCP_KEEPCNT"]
            assert options["TCP_KEEPIDLE"] + probes_s <= 30


def socket_options(connection: Any) -> dict[str, int]:
    """What the kernel does about a silent other end of a connection, by the names of the options."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as duplicate:
        found = {"SO_KEEPALIVE": duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
            found[name] = duplicate.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
    return found


def test_a_schema_that_stays_locked_is_not_waited_for_for_ever(database_url) -> None:
    engine = connect_blocking(database_url)
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": schema._LOCK})
        with pytest.raises(ValueError, match="locked by another program for"):
            schema.upgrade(database_url, lock_timeout_s=0.2)
    schema.upgrade(database_url)
    engine.dispose()


def test_a_read_only_database_is_told(database_url) -> None:
    engine = connect_blocking(database_url).execution_options(isolation_level="AUTOCOMMIT")
    name = make_url(database_url).database
    with engine.connect() as connection:
        connection.execute(text(f"alter database {name} set default_transaction_read_only = on"))
    engine.dispose()
    with pytest.raises(ValueError, match="read-only"):
        prepare_database(database_url)


def test_a_database_of_another_encoding_is_told(database_server) -> None:
    engine = connect_blocking(database_server).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("create database latin encoding 'LATIN1' locale 'C' template template0"))
        url = make_url(database_server).set(database="latin").render_as_string(hide_password=False)
        try:
            with pytest.raises(ValueError, match="LATIN1"):
                prepare_database(url)
        finally:
            connection.execute(text("drop database latin with (force)"))
    engine.dispose()


def test_a_server_that_does_not_answer_is_told() -> None:
    with pytest.raises(ValueError, match=r"cannot be reached.*check DATABASE_URL"):
        prepare_database("postgresql://nobody@127.0.0.1:9/none")
