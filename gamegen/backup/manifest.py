"""What belongs to a backup."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from gamegen.config import build, to_dict
from gamegen.storage.interface import ObjectNotFoundError, ObjectStore

_FORMAT = 1
_FOLDER, _SUFFIX = "backups/", ".json"


class BackupError(ValueError):
    """A backup that is damaged or cannot be used here; the message says what to do."""


@dataclass(frozen=True)
class Blob:
    """Saved bytes, by the SHA-256 of them in hexadecimal."""

    sha256: str
    size_bytes: int

    @property
    def key(self) -> str:
        return f"blobs/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True)
class TableDump:
    """A table's rows: gzipped parts of one COPY text of these columns."""

    name: str
    columns: tuple[str, ...]
    num_rows: int
    parts: tuple[Blob, ...]


@dataclass(frozen=True)
class SequenceDump:
    """The last number that a table's column was given."""

    table: str
    column: str
    last_value: int


@dataclass(frozen=True)
class Manifest:
    """A backup. `tables` come in the order in which they can be filled; `objects` are gzipped lines of JSON with `key`,
    `sha256` and `size_bytes`. `lost` are objects that were named and absent or not what their row says: some of them,
    `num_lost` is all.
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
        """Of tables and of the list of objects, not of the objects themselves."""
        return [*(part for table in self.tables for part in table.parts), *self.objects]


def write_manifest(store: ObjectStore, name: str, manifest: Manifest) -> None:
    """Writes it with its own checksum; raises ObjectExistsError if there is one of this name."""
    data = to_dict(manifest)
    body = {"sha256": _checksum(data), "manifest": data}
    store.write(_FOLDER + name + _SUFFIX, json.dumps(body, indent=1).encode(), create=True)


def read_manifest(store: ObjectStore, name: str | None = None) -> tuple[str, Manifest]:
    """A backup by its name, or the newest, with its name; raises BackupError."""
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
    if body["manifest"].get("format") != _FORMAT:
        raise BackupError(f"backup {name} is of format {body['manifest'].get('format')}: use a newer GameGen")
    return name, build(Manifest, body["manifest"], f"backup {name}")


def _damaged(store: ObjectStore, name: str) -> BackupError:
    return BackupError(f"the list of backup {name} in {store} is damaged: restore another one (--name)")


def _checksum(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
