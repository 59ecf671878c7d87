"""Objects as files of a folder."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gamegen.files import create_file
from gamegen.storage.interface import (
    PIECE_BYTES,
    ObjectEntry,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStore,
    StorageError,
    check_key,
    check_range,
    is_key,
    past_end_error,
)

_PARTIAL = ".partial"
_TRIES = 5


class LocalStore(ObjectStore):
    """Objects as files of a folder; the umask says who can read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return str(self.folder)

    def upload(self, key: str, file: Path, create: bool = False, content_type: str | None = None) -> None:
        target = self._file(key)
        descriptor, partial = _partial_beside(target)
        try:
            with os.fdopen(descriptor, "wb") as copy, file.open("rb") as source:
                shutil.copyfileobj(source, copy, PIECE_BYTES)
                copy.flush()
                os.fsync(copy.fileno())
            # A link refuses a name that is taken, a rename replaces it; both are atomic.
            if create:
                target.hardlink_to(partial)
            else:
                partial.replace(target)
        except FileExistsError as error:
            raise ObjectExistsError(f"{key} is already in {self}") from error
        finally:
            partial.unlink(missing_ok=True)

    def download(self, key: str, file: Path) -> None:
        with self._open(key) as source:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as copy:
                shutil.copyfileobj(source, copy, PIECE_BYTES)

    def size(self, key: str) -> int:
        with self._open(key) as file:
            return os.fstat(file.fileno()).st_size

    def read_range(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        check_range(key, start, stop)
        file = self._open(key)
        size_bytes = os.fstat(file.fileno()).st_size
        if start and start >= size_bytes:
            file.close()
            raise past_end_error(key, start)
        return _pieces(file, start, size_bytes if stop is None else min(stop, size_bytes))

    def url(
        self, key: str, expires_s: int, filename: str | None = None, content_type: str | None = None
    ) -> str | None:
        check_key(key)
        return None

    def entries(self, prefix: str) -> Iterator[ObjectEntry]:
        below = PurePosixPath(prefix.rpartition("/")[0])
        if below.is_absolute() or ".." in below.parts:
            raise StorageError(f"{prefix!r} leaves the store: give the beginning of a key")
        yield from sorted(self._entries_below(self.folder / below, prefix), key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        file = self._file(key)
        file.unlink(missing_ok=True)
        # Its folder goes with its last file, as in a bucket; that one has others is no error.
        with suppress(OSError):
            for folder in file.parents:
                if folder == self.folder:
                    return
                folder.rmdir()

    def remove_unfinished(self, older_s: float) -> int:
        count, before = 0, time.time() - older_s
        for file in _files(self.folder):
            if file.name.startswith(".") and file.name.endswith(_PARTIAL):
                with suppress(FileNotFoundError):
                    if file.stat().st_mtime <= before:
                        file.unlink()
                        count += 1
        return count

    def _entries_below(self, folder: Path, prefix: str) -> Iterator[ObjectEntry]:
        for file in _files(folder):
            key = file.relative_to(self.folder).as_posix()
            if not is_key(key) or not key.startswith(prefix):
                continue
            with suppress(FileNotFoundError):
                status = file.stat()
                yield ObjectEntry(key, status.st_size, status.st_mtime)

    def _open(self, key: str) -> BinaryIO:
        try:
            return self._file(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ObjectNotFoundError(f"{key} is not in {self}") from error

    def _file(self, key: str) -> Path:
        return self.folder / check_key(key)


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, while other processes add and remove some."""
    # Not rglob, which fails when a folder goes away under it.
    for where, _, names in os.walk(folder):
        yield from (Path(where) / name for name in names)


def _partial_beside(target: Path) -> tuple[int, Path]:
    """Creates a partial file beside `target`; another process may be removing the folder because it is empty."""
    for _ in range(_TRIES):
        # The folder may also go between the two calls.
        with suppress(FileNotFoundError, FileExistsError):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{secrets.token_hex(8)}{_PARTIAL}")
            return create_file(partial), partial
    raise StorageError(
        f"{target.parent} is removed each time it is created: another program works in this folder"
    )


def _pieces(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while start < stop and (piece := file.read(min(PIECE_BYTES, stop - start))):
            yield piece
            start += len(piece)
