"""Content-addressed blobs: named by their SHA-256, stored once, and verified when they are read."""

from __future__ import annotations

import gzip
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gamegen.files import file_sha256
from gamegen.service.backup.backup_manifest import BackupError, Blob
from gamegen.storage.interface import ObjectNotFoundError, ObjectStore, StorageError

_PART_BYTES = 16 << 20
"""Bytes of a part of a text before compression: a text that only grows is stored again from its last part on."""
_PIECE_BYTES = 1 << 20


class Blobs:
    """Blobs of a store, listed once: use one object for one backup."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._there = {entry.key: entry.size_bytes for entry in store.entries("blobs/")}

    def find(self, sha256: str, size_bytes: int | None = None) -> Blob | None:
        """The blob with this hash, or None if it is missing or has another size."""
        found = self._there.get(Blob(sha256, 0).key)
        return None if found is None or size_bytes not in (None, found) else Blob(sha256, found)

    def add(self, file: Path) -> Blob:
        """Stores a file unless its blob exists."""
        blob = Blob(file_sha256(file), file.stat().st_size)
        if self._there.get(blob.key) != blob.size_bytes:
            self._store.upload(blob.key, file, content_type="application/octet-stream")
            self._there[blob.key] = blob.size_bytes
        return blob

    def add_text(self, pieces: Iterable[bytes]) -> tuple[Blob, ...]:
        """Stores a long text in gzipped parts."""
        return tuple(self._add_parts(iter(pieces)))

    def read_text(self, parts: Iterable[Blob]) -> Iterator[bytes]:
        """The inverse of `add_text`, in pieces; raises BackupError before the first piece of a damaged part."""
        for part in parts:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "part"
                self.fetch(part, file)
                with gzip.open(file) as text:
                    while piece := text.read(_PIECE_BYTES):
                        yield piece

    def fetch(self, blob: Blob, file: Path) -> None:
        """Writes a blob to a file; raises BackupError if it is missing or damaged."""
        try:
            self._store.download(blob.key, file)
        except ObjectNotFoundError as error:
            raise _damaged(blob, "is missing") from error
        if file_sha256(file) != blob.sha256:
            raise _damaged(blob, "was changed")

    def check(self, blob: Blob) -> None:
        """Reads a blob; raises BackupError if it is missing or damaged."""
        digest = hashlib.sha256()
        try:
            for piece in self._store.read_range(blob.key):
                digest.update(piece)
        except ObjectNotFoundError as error:
            raise _damaged(blob, "is missing") from error
        except StorageError as error:
            raise BackupError(f"{error}; restore another backup (--name)") from error
        if digest.hexdigest() != blob.sha256:
            raise _damaged(blob, "was changed")

    def _add_parts(self, pieces: Iterator[bytes]) -> Iterator[Blob]:
        piece = next(pieces, None)
        while piece is not None:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "part"
                size_bytes = 0
                # Without time and name, so that equal texts give equal files.
                with (
                    file.open("wb") as raw,
                    gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
                ):
                    while piece is not None and size_bytes < _PART_BYTES:
                        packed.write(piece)
                        size_bytes += len(piece)
                        piece = next(pieces, None)
                yield self.add(file)


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Splits a text that comes in pieces into lines."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _damaged(blob: Blob, what: Any) -> BackupError:
    return BackupError(
        f"this backup is damaged: {blob.key} {what}; nothing was restored, use another one (--name)"
    )
