"""Encryption at rest: objects sealed with AES-256-GCM before they leave this machine.

A file is cut into blocks, each sealed by itself, so that size is bounded by the disk and not by memory. A block's
nonce holds its number and whether it is the last (the STREAM construction of Hoang, Reyhanitabar, Rogaway and
Vizár 2015, section 4): blocks cannot be dropped, repeated or put in another order. The object's key is
authenticated too, so one object cannot pass for another.

    GG2 | id of the key, 2 bytes | salt, 6 bytes | blocks, each with a tag of 16 bytes

Each object has a key of its own, derived from the master key, its name and its salt. Earlier versions wrote `GGS1`, a
prefix of 7 bytes, and blocks sealed with the master key itself; those are read too, and `gamegen storage rotate`
replaces them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gamegen.storage.interface import (
    PIECE_BYTES,
    ObjectEntry,
    ObjectStore,
    StorageError,
    check_range,
    past_end_error,
)
from gamegen.storage.objects import default_url, open_plain_store
from gamegen.storage.store_keys import (
    KEY_ID_BYTES,
    KEY_VARIABLE,
    OLD_KEYS_VARIABLE,
    ObjectCipher,
    StoreKeys,
    id_of,
    object_cipher,
)

MAGIC, OLD_MAGIC = b"GG2", b"GGS1"
SALT_BYTES, TAG_BYTES = 6, 16
HEADER_BYTES = len(MAGIC) + KEY_ID_BYTES + SALT_BYTES
"""The same in both formats, so that a listing tells sizes."""
BLOCK_BYTES = 4 << 20


class EncryptedStore(ObjectStore):
    """An encrypting wrapper around another store; see the module for the format."""

    def __init__(self, inner: ObjectStore, store_keys: StoreKeys) -> None:
        self.inner = inner
        self.store_keys = store_keys

    def __repr__(self) -> str:
        return f"{self.inner} (encrypted)"

    def upload(self, key: str, file: Path, create: bool = False, content_type: str | None = None) -> None:
        with tempfile.NamedTemporaryFile() as sealed, file.open("rb") as plain:
            salt = os.urandom(SALT_BYTES)
            sealed.write(MAGIC + id_of(self.store_keys.newest) + salt)
            cipher, prefix = object_cipher(self.store_keys.newest, key, salt)
            for nonce, block in _numbered(plain, prefix, BLOCK_BYTES):
                sealed.write(cipher.encrypt(nonce, block, key.encode()))
            sealed.flush()
            self.inner.upload(key, Path(sealed.name), create, "application/octet-stream")

    def download(self, key: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.inner.download(key, Path(folder) / "sealed")
            with (Path(folder) / "sealed").open("rb") as sealed, file.open("wb") as plain:
                ciphers = self._ciphers(key, sealed.read(HEADER_BYTES))
                for cipher, prefix in ciphers:
                    sealed.seek(HEADER_BYTES)
                    plain.seek(0)
                    plain.truncate()
                    try:
                        for nonce, block in _numbered(sealed, prefix, BLOCK_BYTES + TAG_BYTES):
                            plain.write(cipher.decrypt(nonce, block, key.encode()))
                        return
                    except (InvalidTag, ValueError):
                        plain.truncate(0)
                raise self._damaged(key)

    def size(self, key: str) -> int:
        return _plain_bytes(self.inner.size(key))

    def read_range(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        check_range(key, start, stop)
        sealed_bytes = self.inner.size(key)
        size_bytes = _plain_bytes(sealed_bytes)
        if start and start >= size_bytes:
            raise past_end_error(key, start)
        ciphers = self._ciphers(key, self._header(key))
        return self._opened(key, ciphers, start, min(stop or size_bytes, size_bytes), sealed_bytes)

    def url(
        self, key: str, expires_s: int, filename: str | None = None, content_type: str | None = None
    ) -> str | None:
        # A URL would deliver the encrypted bytes.
        return None

    def entries(self, prefix: str) -> Iterator[ObjectEntry]:
        for entry in self.inner.entries(prefix):
            yield replace(entry, size_bytes=_plain_bytes(entry.size_bytes))

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def delete_many(self, keys: Iterable[str]) -> int:
        return self.inner.delete_many(keys)

    def remove_unfinished(self, older_s: float) -> int:
        return self.inner.remove_unfinished(older_s)

    def seal_of(self, key: str) -> Literal["newest", "older", "none"]:
        """Which key an object is sealed with: today's format and the newest key, anything before, or none."""
        header = self._header(key)
        if header[:-SALT_BYTES] == MAGIC + id_of(self.store_keys.newest):
            return "newest"
        return "older" if header.startswith((MAGIC, OLD_MAGIC)) else "none"

    def _header(self, key: str) -> bytes:
        return b"".join(self.inner.read_range(key, 0, HEADER_BYTES))

    def _ciphers(self, key: str, header: bytes) -> list[ObjectCipher]:
        """The ciphers that could have sealed the object `key`, usually one."""
        if header.startswith(OLD_MAGIC):
            return [ObjectCipher(AESGCM(master), header[len(OLD_MAGIC) :]) for master in self.store_keys]
        if not header.startswith(MAGIC):
            raise self._unsealed(key)
        key_id, salt = header[len(MAGIC) : -SALT_BYTES], header[-SALT_BYTES:]
        masters = self.store_keys.of_id(key_id)
        if not masters:
            raise StorageError(
                f"{key} in {self.inner} cannot be opened: it is sealed with the key {key_id.hex()}, and "
                f"{KEY_VARIABLE} is not the key: name it in {OLD_KEYS_VARIABLE}"
            )
        return [object_cipher(master, key, salt) for master in masters]

    def _opened(
        self, key: str, ciphers: list[ObjectCipher], start: int, stop: int, sealed_bytes: int
    ) -> Iterator[bytes]:
        last = max(_plain_bytes(sealed_bytes) - 1, 0) // BLOCK_BYTES
        for number in range(start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES + 1):
            first = HEADER_BYTES + number * (BLOCK_BYTES + TAG_BYTES)
            sealed = b"".join(self.inner.read_range(key, first, first + BLOCK_BYTES + TAG_BYTES))
            block = self._opened_block(key, ciphers, sealed, number, number == last)
            offset = number * BLOCK_BYTES
            wanted = block[max(start - offset, 0) : stop - offset]
            yield from (wanted[i : i + PIECE_BYTES] for i in range(0, len(wanted), PIECE_BYTES))

    def _opened_block(
        self, key: str, ciphers: list[ObjectCipher], sealed: bytes, number: int, is_last: bool
    ) -> bytes:
        for cipher, prefix in ciphers:
            try:
                return cipher.decrypt(_nonce(prefix, number, is_last), sealed, key.encode())
            except (InvalidTag, ValueError):
                continue
        raise self._damaged(key)

    def _unsealed(self, key: str) -> StorageError:
        return StorageError(
            f"{key} in {self.inner} is not encrypted and {KEY_VARIABLE} is set: run `gamegen storage rotate` to seal "
            "what was stored before, or unset it"
        )

    def _damaged(self, key: str) -> StorageError:
        return StorageError(
            f"{key} in {self.inner} cannot be opened: it is damaged, or {KEY_VARIABLE} is not the key it was "
            "sealed with"
        )


def open_store(url: str | None = None) -> ObjectStore:
    """The store of an address (`default_url()` without one), sealed if the environment has a key.

    Raises StorageError for an address or keys that cannot be used.
    """
    store = open_plain_store(url or default_url())
    keys = StoreKeys.from_environment()
    return EncryptedStore(store, keys) if keys else store


def _numbered(file: BinaryIO, salt: bytes, block_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Blocks with their nonces (7 bytes of salt, 4 of number, 1 that marks the last); at least one block."""
    block, number = file.read(block_bytes), 0
    while True:
        following = file.read(block_bytes)
        yield _nonce(salt, number, not following), block
        if not following:
            return
        block, number = following, number + 1


def _nonce(salt: bytes, number: int, is_last: bool) -> bytes:
    return salt + number.to_bytes(4) + (b"\1" if is_last else b"\0")


def _plain_bytes(sealed_bytes: int) -> int:
    """Size of an object before encryption, from its encrypted size."""
    body = max(sealed_bytes - HEADER_BYTES, 0)
    return max(body - TAG_BYTES * -(-body // (BLOCK_BYTES + TAG_BYTES)), 0)
