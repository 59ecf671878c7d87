"""Manifest of a backup: its tables, sequences and objects."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from gamegen.config import build, to_dict
from gamegen.storage.interface import ObjectNotFoundError, ObjectStore

_FORMAT = 1
_FOLDER, _SUFFIX = "backups/", ".json"


class BackupError(ValueError):
    """A backup that is damaged or cannot be restored here; the message says what to do."""


@dataclass(frozen=True)
class Blob:
    """Saved bytes, named by their SHA-256 in hexadecimal."""

    sha256: str
    size_bytes: int

    @property
    def key(self) -> str:
        return f"blobs/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True)
class TableDump:
    """Rows of a table: gzipped parts of the COPY text of its columns."""

    name: str
    columns: tuple[str, ...]
    num_rows: int
    parts: tuple[Blob, ...]


@dataclass(frozen=True)
class SequenceDump:
    """Last value of the sequence of a column."""

    table: str
    column: str
    last_value: int


@dataclass(frozen=True, kw_only=True)
class BackupManifest:
    """Contents of a backup.

    `tables` come in the order in which they can be filled; `objects` are gzipped lines of JSON with `key`, `sha256` and
    `size_bytes`. `num_lost` objects were missing or differed from their row; `lost` are the keys of the first of them.
    """

    created_at: str
    schema_revision: str
    server_version: str
    tables: tuple[TableDump, ...]
    sequences: tuple[SequenceDump, ...]
    objects: tuple[Blob, ...]
    num_objects: int
    object_bytes: int
    num_lost: int = 0
    lost: tuple[str, ...] = ()
    format: int = _FORMAT

    @property
    def num_rows(self) -> int:
        return sum(table.num_rows for table in self.tables)

    @property
    def blobs(self) -> list[Blob]:
        """Blobs of the tables and of the list of objects, without the objects."""
        return [*(part for table in self.tables for part in table.parts), *self.objects]


def write_manifest(store: ObjectStore, name: str, manifest: BackupManifest) -> None:
    """Writes a manifest with its checksum; raises ObjectExistsError for a name that exists."""
    data = to_dict(manifest)
    body = {"sha256": _checksum(data), "manifest": data}
    store.write(_FOLDER + name + _SUFFIX, json.dumps(body, indent=1).encode(), create=True)


def read_manifest(store: ObjectStore, name: str | None = None) -> tuple[str, BackupManifest]:
    """The name and manifest of a backup, by default the newest; raises BackupError."""
    if name is None:
        found = list(store.keys(_FOLDER))
        if not found:
            raise BackupError(f"there is no backup in {store}: make one with gamegen backup")
        name = found[-1].removeprefix(_FOLDER).removesuffix(_SUFFIX)
    try:
        body = json.loads(store.read(_FOLDER + name + _SUFFIX))
    except ObjectNotFoundError as error:
        names = ", ".join(key.removeprefix(_FOLDER).removesuffix(_SUFFIX) for key in store.keys(_FOLDER))
        raise BackupError(f"there is no backup {name!r} in {store}; there are: {names or 'none'}") from error
    except ValueError as error:
        raise _damaged(store, name) from error
    if not isinstance(body, dict) or body.get("sha256") != _checksum(body.get("manifest")):
        raise _damaged(store, name)
    if (found := body["manifest"].get("format")) != _FORMAT:
        raise BackupError(
            f"backup {name} has format {found}, this program reads {_FORMAT}: use a newer GameGen"
        )
    return name, build(BackupManifest, body["manifest"], f"backup {name}")


def _damaged(store: ObjectStore, name: str) -> BackupError:
    return BackupError(f"the manifest of backup {name} in {store} is damaged: restore another one (--name)")


def _checksum(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
