"""Key rotation: all objects are sealed with the newest key, those that were stored in the clear too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gamegen.storage.encryption import EncryptedStore
from gamegen.storage.interface import ObjectNotFoundError, ObjectStore


@dataclass(frozen=True)
class KeyRotation:
    """Numbers of objects: sealed anew, sealed for the first time, and found sealed with the newest key."""

    resealed: int
    newly_sealed: int
    unchanged: int


def rotate_keys(store: EncryptedStore, progress: Callable[[int], None] = lambda done: None) -> KeyRotation:
    """Seals every object of a store with the newest of its keys; `progress` is told how many are done.

    Objects are replaced one by one, each whole or not at all, so that a server may run meanwhile, and a rotation that
    was broken off is run again. Raises StorageError at an object whose key is not among the store's.
    """
    resealed = newly_sealed = unchanged = 0
    for number, key in enumerate([*store.inner.keys("")], start=1):
        try:
            seal = store.seal_of(key)
            if seal == "newest":
                unchanged += 1
            elif seal == "older":
                _seal(key, store, store)
                resealed += 1
            else:
                _seal(key, store.inner, store)
                newly_sealed += 1
        except ObjectNotFoundError:
            # Removed since it was listed.
            pass
        progress(number)
    return KeyRotation(resealed, newly_sealed, unchanged)


def _seal(key: str, source: ObjectStore, target: EncryptedStore) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        source.download(key, plain)
        target.upload(key, plain)
