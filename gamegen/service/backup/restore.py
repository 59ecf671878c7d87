"""Restore of a backup into an empty database, after all of it has been verified."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import OperationalError

from gamegen.service.backup.backup import Progress, in_threads
from gamegen.service.backup.backup_manifest import BackupError, BackupManifest, Blob, read_manifest
from gamegen.service.backup.blobs import Blobs, lines_of
from gamegen.service.backup.table_dumps import check_empty, load
from gamegen.service.database import schema
from gamegen.service.database.connection import connect_blocking
from gamegen.storage.interface import ObjectNotFoundError, ObjectStore, check_key


@dataclass(frozen=True)
class SavedObject:
    """Key of an object, and the blob with its bytes."""

    key: str
    blob: Blob


def check(source: ObjectStore, name: str | None, progress: Progress) -> tuple[str, BackupManifest]:
    """Verifies all of a backup, by default the newest; raises BackupError for a missing or damaged part."""
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
) -> tuple[str, BackupManifest]:
    """Fills an empty database and a store; raises BackupError, before it writes, if the backup or target is unfit.

    The rows are written last, in one transaction. An interrupted restore can be run again: existing objects are kept.
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


def _objects_of(manifest: BackupManifest, blobs: Blobs) -> Iterator[SavedObject]:
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
    """Migrates to the revision of the backup, whose rows fit no other; later revisions then migrate the rows."""
    revisions = schema.revisions()
    found = schema.current(database_url)
    if found is not None and revisions.index(found) > revisions.index(revision):
        schema.downgrade(database_url, revision)
    schema.upgrade(database_url, revision)


def _fill(database_url: str, manifest: BackupManifest, blobs: Blobs, progress: Progress) -> None:
    engine = connect_blocking(database_url)
    try:
        with engine.begin() as connection:
            for number, _ in enumerate(load(connection, manifest, blobs)):
                progress("tables", number + 1, len(manifest.tables))
    finally:
        engine.dispose()
