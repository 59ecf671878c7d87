"""The interface of object stores.

A key is a path of names joined by `/`; an object appears whole or not at all.
"""

from __future__ import annotations

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

PIECE_BYTES = 1 << 20
LONGEST_URL_S = 7 * 24 * 3600
"""The longest lifetime of a URL that S3 signs: a week."""
_BATCH = 1000
_NAME = re.compile(r"[A-Za-z0-9._=-]+")


class StorageError(ValueError):
    """The store cannot be reached, refuses, or holds something damaged; the message says which and what to do."""


class MissingStoreError(StorageError):
    """The store's bucket does not exist."""


class ObjectNotFoundError(StorageError):
    """No object has this key."""


class ObjectExistsError(StorageError):
    """An object to create has a key that is taken."""


class NotRemovedError(StorageError):
    """The store refused to remove some objects, whose keys are `keys`; all others that were named are removed."""

    def __init__(self, message: str, keys: Sequence[str]) -> None:
        super().__init__(message)
        self.keys = frozenset(keys)


@dataclass(frozen=True)
class ObjectEntry:
    """An object in a listing; `modified_at` is in unix seconds, by the store's clock."""

    key: str
    size_bytes: int
    modified_at: float


class ObjectStore(ABC):
    """Objects by key. Its methods block, and may be called from any thread."""

    @abstractmethod
    def upload(self, key: str, file: Path, create: bool = False, content_type: str | None = None) -> None:
        """Stores a file; with `create`, raises ObjectExistsError if the key is taken, atomically.

        `content_type` is what the object's URL answers; without one it is guessed from the key.
        """

    @abstractmethod
    def download(self, key: str, file: Path) -> None:
        """Writes an object to `file`, whose folder is made; raises ObjectNotFoundError."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Size of an object in bytes; raises ObjectNotFoundError."""

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
        """A signed URL of the object that expires after `expires_s`; None if this store has no URLs.

        With a `filename` a browser saves it under that name. The object may be missing: this is not checked.
        """

    @abstractmethod
    def entries(self, prefix: str) -> Iterator[ObjectEntry]:
        """Every object whose key begins with `prefix`, sorted by key; what has no valid key is left out."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes an object; a missing one is no error."""

    @abstractmethod
    def remove_unfinished(self, older_s: float) -> int:
        """Removes the leftovers of interrupted uploads that began over `older_s` seconds ago; returns their number."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key that begins with `prefix`, sorted."""
        return (entry.key for entry in self.entries(prefix))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Removes objects, a thousand at a time; returns the number of keys.

        Raises NotRemovedError once all are tried, if the store refused some of them.
        """
        remaining, count = iter(keys), 0
        refused: dict[str, Exception] = {}
        while batch := list(islice(remaining, _BATCH)):
            refused |= self._delete_batch(batch)
            count += len(batch)
        if refused:
            reason = next(iter(refused.values()))
            message = f"{len(refused)} of {count} objects were not removed from {self}; the first: {reason}"
            raise NotRemovedError(message, list(refused))
        return count

    def delete_prefix(self, prefix: str) -> int:
        """Removes everything below `prefix`, which ends with `/`; returns the number of objects."""
        if not prefix.endswith("/"):
            raise StorageError(f"{prefix!r} is not a prefix of objects: end it with /")
        check_key(prefix.rstrip("/"))
        return self.delete_many(self.keys(prefix))

    def write(self, key: str, data: bytes, create: bool = False, content_type: str | None = None) -> None:
        """Stores a small object from memory."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "object"
            file.write_bytes(data)
            self.upload(key, file, create, content_type)

    def read(self, key: str) -> bytes:
        """The bytes of a small object."""
        with tempfile.TemporaryDirectory() as folder:
            self.download(key, Path(folder) / "object")
            return (Path(folder) / "object").read_bytes()

    def _delete_batch(self, keys: list[str]) -> dict[str, Exception]:
        """Removes objects; returns the reasons of those that stay."""
        refused: dict[str, Exception] = {}
        for key in keys:
            try:
                self.delete(key)
            except (StorageError, OSError) as error:
                refused[key] = error
        return refused


def check_key(key: str) -> str:
    """Returns `key`; raises StorageError unless it is names of letters, digits and `._=-` joined by `/`."""
    if not is_key(key):
        raise StorageError(
            f"{key[:80]!r} is not a valid key: up to 512 letters, digits and ._=- in names joined by /, none of which "
            "begins with a dot"
        )
    return key


def is_key(key: str) -> bool:
    """True for a key that objects of these stores can have; others in a bucket or folder are somebody else's."""
    names = PurePosixPath(key).parts
    return (
        0 < len(key) <= 512
        and "/".join(names) == key
        and all(_NAME.fullmatch(name) and not name.startswith(".") for name in names)
    )


def check_range(key: str, start: int, stop: int | None) -> None:
    """Raises StorageError for an invalid or empty range of bytes."""
    if start < 0 or (stop is not None and stop <= start):
        raise StorageError(
            f"bytes {start} to {stop} of {key} are not a valid range: the end must be after the start"
        )


def past_end_error(key: str, start: int) -> StorageError:
    """The error for a range that begins after the object's end."""
    return StorageError(f"{key} ends before byte {start}: ask for its size first")
