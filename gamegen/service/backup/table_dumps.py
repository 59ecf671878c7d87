"""Dumps of tables as COPY text, which does not depend on the server's settings and version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Cursor, sql
from sqlalchemy import Connection, Table, inspect, text

from gamegen.service.backup.backup_manifest import BackupError, BackupManifest, SequenceDump, TableDump
from gamegen.service.backup.blobs import Blobs
from gamegen.service.database.tables import metadata

_PLAIN = text(
    "select set_config('datestyle', 'ISO, MDY', true), set_config('timezone', 'UTC', true), "
    "set_config('extra_float_digits', '1', true), set_config('client_encoding', 'UTF8', true)"
)
_KEPT_BY_SCHEMA = {"tiers"}
"""Tables that may have rows in a new database: of migrations, or of a server that has started."""


def dump_table(connection: Connection, table: Table, blobs: Blobs) -> TableDump:
    """Saves the rows of a table in the transaction's snapshot, in the order of the primary key."""
    columns = tuple(column.name for column in table.columns)
    query = sql.SQL("copy (select {} from {} order by {}) to stdout").format(
        _names(columns), sql.Identifier(table.name), _names(column.name for column in table.primary_key)
    )
    connection.execute(_PLAIN)
    with _cursor(connection) as cursor:
        parts = blobs.add_text(_copied(cursor, query))
        return TableDump(table.name, columns, cursor.rowcount, parts)


def dump_sequences(connection: Connection) -> tuple[SequenceDump, ...]:
    """Last values of all sequences; read after the rows, so that no row has a higher one."""
    found = []
    for table in metadata.sorted_tables:
        for column in table.columns:
            if column.identity is not None:
                last = connection.scalar(
                    text("select pg_sequence_last_value(cast(pg_get_serial_sequence(:t, :c) as regclass))"),
                    {"t": table.name, "c": column.name},
                )
                if last is not None:
                    found.append(SequenceDump(table.name, column.name, last))
    return tuple(found)


def check_empty(connection: Connection) -> None:
    """Raises BackupError if a table has rows; a database without tables is empty."""
    there = set(inspect(connection).get_table_names())
    for table in metadata.sorted_tables:
        if table.name in there - _KEPT_BY_SCHEMA and connection.execute(table.select().limit(1)).first():
            raise BackupError(
                f"the database is not empty: {table.name} has rows. Restore into an empty one (createdb), which "
                "no server uses"
            )


def load(connection: Connection, manifest: BackupManifest, blobs: Blobs) -> Iterator[str]:
    """Fills the tables of an empty database in the caller's transaction; yields the name of each filled table.

    Raises BackupError if a table has rows before, or another number of rows afterwards.
    """
    names = sql.SQL(", ").join(sql.Identifier(table.name) for table in manifest.tables)
    connection.execute(_PLAIN)
    with _cursor(connection) as cursor:
        cursor.execute(sql.SQL("lock table {} in access exclusive mode").format(names))
        check_empty(connection)
        cursor.execute(sql.SQL("truncate {}").format(names))
        for table in manifest.tables:
            into = sql.SQL("copy {} ({}) from stdin").format(
                sql.Identifier(table.name), _names(table.columns)
            )
            with cursor.copy(into) as copy:
                for piece in blobs.read_text(table.parts):
                    copy.write(piece)
            if cursor.rowcount != table.num_rows:
                raise BackupError(
                    f"{table.name} has {cursor.rowcount} rows in the backup and should have {table.num_rows}"
                )
            yield table.name
        for sequence in manifest.sequences:
            cursor.execute(
                "select setval(pg_get_serial_sequence(%s, %s), %s)",
                (sequence.table, sequence.column, sequence.last_value),
            )


def _copied(cursor: Cursor, query: sql.Composed) -> Iterator[bytes]:
    with cursor.copy(query) as copy:
        for piece in copy:
            yield bytes(piece)


def _names(names: Any) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _cursor(connection: Connection) -> Cursor:
    driver: Any = connection.connection.driver_connection
    return driver.cursor()
