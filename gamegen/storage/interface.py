"""What a store of large things can do.

A key is a path of names joined by `/`; an object appears whole or not at all.
"""

from __future__ import annotations

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

PIECE_BYTES = 1 << 20
LONGEST_URL_S = 7 * 24 * 3600
"""S3 signs for no longer than a week."""
_BATCH = 1000
_NAME = re.compile(r"[A-Za-z0-9._=-]+")


class StorageError(ValueError):
    """The store cannot be reached, refuses, or holds something damaged; the message says which and what to do."""


class ObjectNotFoundError(StorageError):
    """There is no object of this key."""


class ObjectExistsError(StorageError):
    """An object of this key is already there and was to be created."""


@dataclass(frozen=True)
class Entry:
    """An object as a listing shows it; `modified_at` is in unix seconds, by the store's clock."""

    key: str
    size_bytes: int
    modified_at: float


class ObjectStore(ABC):
    """Objects by key. Its methods block, and may be called from any thread."""

    @abstractmethod
    def upload(self, key: str, file: Path, create: bool = False, content_type: str | None = None) -> None:
        """Stores a file; with `create`, raises ObjectExistsError if the key is taken, atomically.

        `content_type` is what a URL of it will say; without one it is guessed from the key.
        """

    @abstractmethod
    def download(self, key: str, file: Path) -> None:
        """Writes an object to `file`, whose folder is made; raises ObjectNotFoundError."""

    @abstractmethod
    def size(self, key: str) -> int:
        """How many bytes an object has; raises ObjectNotFoundError."""

    @abstractmethod
    def read_range(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes `start` to `stop` (not included; the end without one), in pieces of a MiB at most.

        Raises ObjectNotFoundError, and StorageError if the object ends before that or the range is empty, all before
        the first piece.
        """

    @abstractmethod
    def url(
        self, key: str, expires_s: int, filename: str | None = None, content_type: str | None = None
    ) -> str | None:
        """An address that gives the object to whoever has it, for a while; None if this store has no addresses.

        With a `filename` a browser saves it under that name. It is not looked whether the object is there.
        """

    @abstractmethod
    def entries(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key begins with `prefix`, sorted by key."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is no error."""

    @abstractmethod
    def remove_unfinished(self, older_s: float) -> int:
        """Removes what uploads that died have left, if they began longer ago than that; returns how many."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key that begins with `prefix`, sorted."""
        return (entry.key for entry in self.entries(prefix))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Removes objects, a thousand at a time; returns how many keys there were."""
        remaining, count = iter(keys), 0
        while batch := list(islice(remaining, _BATCH)):
            self._delete_batch(batch)
            count += len(batch)
        return count

    def delete_prefix(self, prefix: str) -> int:
        """Removes everything below `prefix`, which ends with `/`; returns how many objects there were."""
        if not prefix.endswith("/"):
            raise StorageError(f"{prefix!r} is no folder of objects: end it with / ")
        check_key(prefix.rstrip("/"))
        return self.delete_many(self.keys(prefix))

    def write(self, key: str, data: bytes, create: bool = False, content_type: str | None = None) -> None:
        """Stores a few bytes."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "object"
            file.write_bytes(data)
            self.upload(key, file, create, content_type)

    def read(self, key: str) -> bytes:
        """The bytes of a small object."""
        with tempfile.TemporaryDirectory() as folder:
            self.download(key, Path(folder) / "object")
            return (Path(folder) / "object").read_bytes()

    def _delete_batch(self, keys: list[str]) -> None:
        for key in keys:
            self.delete(key)


def check_key(key: str) -> str:
    """`key`, if it is one: names of letters, digits and `._=-` joined by `/`; raises StorageError otherwise."""
    names = PurePosixPath(key).parts
    if not 0 < len(key) <= 512 or "/".join(names) != key or not all(map(_NAME.fullmatch, names)):
        raise StorageError(f"{key[:80]!r} is no key: up to 512 letters, digits and ._=- in names joined by /")
    if any(name.startswith(".") for name in names):
        raise StorageError(f"{key!r} is no key: no name may begin with a dot")
    return key


def check_order(key: str, start: int, stop: int | None) -> None:
    """Raises StorageError for a range that is none, or empty."""
    if start < 0 or (stop is not None and stop <= start):
        raise StorageError(
            f"bytes {start} to {stop} of {key} are no range: the end has to come after the start"
        )


def behind_end(key: str, start: int) -> StorageError:
    """What is raised when an object ends before a range begins."""
    return StorageError(f"{key} ends before byte {start}: ask for its size first")
