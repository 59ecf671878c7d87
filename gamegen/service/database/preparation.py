"""Checks of a database when the application starts, each of which says in a sentence what to change."""

from __future__ import annotations

import secrets

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from gamegen.service.database import schema
from gamegen.service.database.connection import CONNECT, libpq_url

_OLDEST = 15
_HEARD_WITHIN_S = 15.0


def prepare_database(url: str, *, heard_within_s: float = _HEARD_WITHIN_S) -> None:
    """Checks that the application can work with a database, then migrates it to the newest schema.

    Raises ValueError for a server that cannot be reached, is too old or read-only, keeps no Unicode, or does not pass
    on notifications within `heard_within_s`, as a pooler in transaction mode does not.
    """
    try:
        with _connected(url) as connection:
            _check_server(connection)
            with _connected(url) as other:
                _check_notifications(connection, other, heard_within_s)
    except psycopg.Error as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the database cannot be reached: {reason}; check DATABASE_URL") from error
    schema.upgrade(url)


def _connected(url: str) -> psycopg.Connection:
    return psycopg.connect(make_conninfo(libpq_url(url), **CONNECT), autocommit=True, prepare_threshold=None)


def _check_server(connection: psycopg.Connection) -> None:
    row = connection.execute(
        "select current_setting('server_version'), current_setting('server_version_num')::int / 10000, "
        "current_setting('server_encoding'), "
        "pg_is_in_recovery() or current_setting('transaction_read_only')::bool"
    ).fetchone()
    assert row is not None
    version, major, encoding, is_read_only = row
    if major < _OLDEST:
        raise ValueError(f"DATABASE_URL is a PostgreSQL {version}: use version {_OLDEST} or newer")
    if encoding != "UTF8":
        raise ValueError(
            f"the database keeps text in {encoding}: create one with encoding 'UTF8' template template0"
        )
    if is_read_only:
        raise ValueError(
            "the database is read-only, a standby or set to be so: name the primary in DATABASE_URL"
        )


def _check_notifications(
    listening: psycopg.Connection, other: psycopg.Connection, heard_within_s: float
) -> None:
    channel = f"gamegen_{secrets.token_hex(8)}"
    name = sql.Identifier(channel)
    listening.execute(sql.SQL("listen {}").format(name))
    other.execute("select pg_notify(%s, '')", [channel])
    heard = [note.channel for note in listening.notifies(timeout=heard_within_s, stop_after=1)]
    listening.execute(sql.SQL("unlisten {}").format(name))
    if channel not in heard:
        raise ValueError(
            "DATABASE_URL leads through a pooler in transaction mode (PgBouncer and the like), where LISTEN hears "
            "nothing: name the server itself, or a pool in session mode"
        )
