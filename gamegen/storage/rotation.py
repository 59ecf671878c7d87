"""KeyRotation of keys: objects are sealed anew with the newest key, and what was stored in the clear is sealed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gamegen.storage.encryption import EncryptedStore
from gamegen.storage.interface import ObjectNotFoundError


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
            is_sealed = store.is_sealed(key)
            if is_sealed and store.is_current(key):
                unchanged += 1
            else:
                _seal(store, key, is_sealed)
                resealed, newly_sealed = resealed + is_sealed, newly_sealed + (not is_sealed)
        except ObjectNotFoundError:
            # Removed since it was listed.
            pass
        progress(number)
    return KeyRotation(resealed, newly_sealed, unchanged)


def _seal(store: EncryptedStore, key: str, is_sealed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        (store if is_sealed else store.inner).download(key, plain)
        store.upload(key, plain)
