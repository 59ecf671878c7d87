"""Brings a backup back, into a database that is empty, after all of it has been checked."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import OperationalError

from gamegen.backup.backup import Progress, in_threads
from gamegen.backup.blobs import Blobs, lines_of
from gamegen.backup.manifest import BackupError, Blob, Manifest, read_manifest
from gamegen.backup.tables import check_empty, load
from gamegen.database import schema
from gamegen.database.connection import connect_blocking
from gamegen.storage.interface import ObjectNotFoundError, ObjectStore, check_key


@dataclass(frozen=True)
class SavedObject:
    """An object's key, and the blob with its bytes."""

    key: str
    blob: Blob


def check(source: ObjectStore, name: str | None, progress: Progress) -> tuple[str, Manifest]:
    """Reads all of a backup, the newest without a name; raises BackupError if any of it was changed or is missing."""
    name, manifest = read_manifest(source, name)
    if manifest.schema_revision not in schema.revisions():
        raise BackupError(
            f"backup {name} has schema {manifest.schema_revision}, which this program does not know: use a newer one"
        )
    blobs = Blobs(source)
    for number, blob in enumerate(manifest.blobs):
        progress("checking tables", number, len(manifest.blobs))
        blobs.check(blob)
    progress("checking tables", len(manifest.blobs), len(manifest.blobs))
    saved = in_threads(lambda item: blobs.check(item.blob), _objects_of(manifest, blobs))
    for number, _ in enumerate(saved):
        progress("checking objects", number + 1, manifest.num_objects)
    return name, manifest


def restore(
    source: ObjectStore, name: str | None, database_url: str, objects: ObjectStore, progress: Progress
) -> tuple[str, Manifest]:
    """Fills an empty database and a store; raises BackupError before anything is written if that cannot go well.

    The rows come last and all at once. One that is broken off can be run again: objects that are there are kept.
    """
    _check_target(database_url)
    name, manifest = check(source, name, progress)
    blobs = Blobs(source)
    written = in_threads(lambda item: _restore_object(objects, blobs, item), _objects_of(manifest, blobs))
    for number, _ in enumerate(written):
        progress("objects", number + 1, manifest.num_objects)
    _to_revision(database_url, manifest.schema_revision)
    _fill(database_url, manifest, blobs, progress)
    schema.upgrade(database_url)
    return name, manifest


def _objects_of(manifest: Manifest, blobs: Blobs) -> Iterator[SavedObject]:
    for line in lines_of(blobs.read_text(manifest.objects)):
        item = json.loads(line)
        yield SavedObject(check_key(item["key"]), Blob(item["sha256"], item["size_bytes"]))


def _restore_object(objects: ObjectStore, blobs: Blobs, item: SavedObject) -> None:
    if _is_there(objects, item):
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "object"
        blobs.fetch(item.blob, file)
        objects.upload(item.key, file)


def _is_there(objects: ObjectStore, item: SavedObject) -> bool:
    digest = hashlib.sha256()
    try:
        if objects.size(item.key) != item.blob.size_bytes:
            return False
        for piece in objects.read_range(item.key):
            digest.update(piece)
    except ObjectNotFoundError:
        return False
    return digest.hexdigest() == item.blob.sha256


def _check_target(database_url: str) -> None:
    engine = connect_blocking(database_url)
    try:
        with engine.connect() as connection:
            check_empty(connection)
    except OperationalError as error:
        raise BackupError(f"the database cannot be reached: {error.orig}; check DATABASE_URL") from error
    finally:
        engine.dispose()


def _to_revision(database_url: str, revision: str) -> None:
    """Rows go into tables as they were when they were saved; later revisions then change them as they always do."""
    revisions = schema.revisions()
    found = schema.current(database_url)
    if found is not None and revisions.index(found) > revisions.index(revision):
        schema.downgrade(database_url, revision)
    schema.upgrade(database_url, revision)


def _fill(database_url: str, manifest: Manifest, blobs: Blobs, progress: Progress) -> None:
    engine = connect_blocking(database_url)
    try:
        with engine.begin() as connection:
            for number, _ in enumerate(load(connection, manifest, blobs)):
                progress("tables", number + 1, len(manifest.tables))
    finally:
        engine.dispose()
