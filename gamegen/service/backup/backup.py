"""Backup of a snapshot of the database, and of the objects that its rows refer to."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from gamegen.files import file_sha256
from gamegen.service.backup.backup_manifest import (
    BackupManifest,
    Blob,
    SequenceDump,
    TableDump,
    write_manifest,
)
from gamegen.service.backup.blobs import Blobs
from gamegen.service.backup.table_dumps import dump_sequences, dump_table
from gamegen.service.database.connection import connect_blocking
from gamegen.service.database.schema import check_newest
from gamegen.service.database.tables import metadata
from gamegen.service.orders.referenced_objects import INPUTS_PREFIX, all_referenced
from gamegen.storage.interface import ObjectNotFoundError, ObjectStore

Progress = Callable[[str, int, int | None], None]
"""Called with the current activity, the number done, and the total (None while unknown)."""
_THREADS = 8
_MAX_LOST_KEYS = 100
_INPUT = re.compile(rf"{INPUTS_PREFIX}([0-9a-f]{{64}})")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Dump:
    """Database contents in the snapshot of one transaction."""

    tables: tuple[TableDump, ...]
    sequences: tuple[SequenceDump, ...]
    num_objects: int
    server_version: str


@dataclass
class _Tally:
    """Counts of saved and lost objects."""

    num_objects: int = 0
    object_bytes: int = 0
    num_lost: int = 0
    lost: list[str] = field(default_factory=list)


def backup(
    database_url: str, objects: ObjectStore, target: ObjectStore, progress: Progress
) -> tuple[str, BackupManifest]:
    """Saves everything in `target`; returns the backup's name. Raises ValueError if a part cannot be reached.

    A run after an interrupted one continues it, and a later backup saves only new objects.
    """
    revision = check_newest(database_url)
    started = datetime.now(UTC)
    blobs = Blobs(target)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "objects"
        dump = _dump_database(database_url, blobs, listed, progress)
        tally = _Tally()
        lines = _saved_objects(listed, dump.num_objects, objects, blobs, tally, progress)
        object_parts = blobs.add_text(lines)
    manifest = BackupManifest(
        created_at=started.isoformat(),
        schema_revision=revision,
        server_version=dump.server_version,
        tables=dump.tables,
        sequences=dump.sequences,
        objects=object_parts,
        num_objects=tally.num_objects,
        object_bytes=tally.object_bytes,
        num_lost=tally.num_lost,
        lost=tuple(tally.lost),
    )
    name = started.strftime("%Y%m%dT%H%M%S.%fZ")
    write_manifest(target, name, manifest)
    return name, manifest


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results of `work` in the order of `items`, from a few threads; reads a bounded number of items ahead."""
    remaining = iter(items)
    with ThreadPoolExecutor(_THREADS) as pool:
        while window := list(islice(remaining, 8 * _THREADS)):
            yield from pool.map(work, window)


def _dump_database(database_url: str, blobs: Blobs, listed: Path, progress: Progress) -> _Dump:
    engine = connect_blocking(database_url)
    moment = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        with engine.connect().execution_options(**moment) as connection:
            tables: list[TableDump] = []
            for table in metadata.sorted_tables:
                progress("tables", len(tables), len(metadata.sorted_tables))
                tables.append(dump_table(connection, table, blobs))
            progress("tables", len(tables), len(tables))
            num_objects = _list_objects(connection, listed)
            version = connection.exec_driver_sql("show server_version").scalar_one()
            return _Dump(tuple(tables), dump_sequences(connection), num_objects, version)
    finally:
        engine.dispose()


def _list_objects(connection: Connection, listed: Path) -> int:
    # To a file: the transaction must not stay open while gigabytes are copied, nor memory hold the list.
    count = 0
    with listed.open("w", encoding="utf-8") as file:
        for row in connection.execute(all_referenced(), execution_options={"stream_results": True}):
            file.write(json.dumps([row.key, row.sha256, row.size_bytes]) + "\n")
            count += 1
    return count


def _saved_objects(
    listed: Path, total: int, objects: ObjectStore, blobs: Blobs, tally: _Tally, progress: Progress
) -> Iterator[bytes]:
    """Saves the objects of a list; yields the backup's lines about them."""

    def save(line: str) -> tuple[str, Blob | None]:
        key, sha256, size_bytes = json.loads(line)
        return key, _save(objects, blobs, key, sha256, size_bytes)

    with listed.open(encoding="utf-8") as lines:
        for number, (key, blob) in enumerate(in_threads(save, lines)):
            progress("objects", number, total)
            if blob is None:
                tally.num_lost += 1
                tally.lost += [key] if len(tally.lost) < _MAX_LOST_KEYS else []
                continue
            tally.num_objects += 1
            tally.object_bytes += blob.size_bytes
            line = {"key": key, "sha256": blob.sha256, "size_bytes": blob.size_bytes}
            yield json.dumps(line).encode() + b"\n"
    progress("objects", total, total)


def _save(
    objects: ObjectStore, blobs: Blobs, key: str, sha256: str | None, size_bytes: int | None
) -> Blob | None:
    """The blob of an object, or None if it is missing or differs from its row."""
    if sha256 is None and (named := _INPUT.fullmatch(key)):
        sha256 = named.group(1)
    if sha256 and (found := blobs.find(sha256, size_bytes)):
        return found
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "object"
        try:
            objects.download(key, file)
        except ObjectNotFoundError:
            return None
        if sha256 and file_sha256(file) != sha256:
            return None
        return blobs.add(file)
