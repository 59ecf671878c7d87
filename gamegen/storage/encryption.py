"""Encryption at rest: objects sealed with AES-256-GCM before they leave this machine.

A file is cut into blocks, each sealed by itself, so that size is bounded by the disk and not by memory. A block's
nonce holds its number and whether it is the last (the STREAM construction of Hoang, Reyhanitabar, Rogaway and
Vizár 2015, section 4): blocks cannot be dropped, repeated or put in another order. The object's key is
authenticated too, so one object cannot pass for another.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

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
from gamegen.storage.objects import default_url, open_store

KEY_VARIABLE = "GAMEGEN_STORE_KEY"
MAGIC = b"GGS1"
SALT_BYTES, TAG_BYTES = 7, 16
HEADER_BYTES = len(MAGIC) + SALT_BYTES
BLOCK_BYTES = 4 << 20


class EncryptedStore(ObjectStore):
    """An encrypting wrapper around another store; see the module for the format."""

    def __init__(self, inner: ObjectStore, key: bytes) -> None:
        self.inner = inner
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return f"{self.inner} (encrypted)"

    def upload(self, key: str, file: Path, create: bool = False, content_type: str | None = None) -> None:
        with tempfile.NamedTemporaryFile() as sealed, file.open("rb") as plain:
            salt = os.urandom(SALT_BYTES)
            sealed.write(MAGIC + salt)
            for nonce, block in _numbered(plain, salt, BLOCK_BYTES):
                sealed.write(self._cipher.encrypt(nonce, block, key.encode()))
            sealed.flush()
            self.inner.upload(key, Path(sealed.name), create, "application/octet-stream")

    def download(self, key: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.inner.download(key, Path(folder) / "sealed")
            with (Path(folder) / "sealed").open("rb") as sealed, file.open("wb") as plain:
                if sealed.read(len(MAGIC)) != MAGIC:
                    raise self._unsealed(key)
                try:
                    for nonce, block in _numbered(sealed, sealed.read(SALT_BYTES), BLOCK_BYTES + TAG_BYTES):
                        plain.write(self._cipher.decrypt(nonce, block, key.encode()))
                except (InvalidTag, ValueError) as error:
                    plain.truncate(0)
                    raise self._damaged(key) from error

    def size(self, key: str) -> int:
        return _plain_bytes(self.inner.size(key))

    def read_range(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        check_range(key, start, stop)
        sealed_bytes = self.inner.size(key)
        size_bytes = _plain_bytes(sealed_bytes)
        if start and start >= size_bytes:
            raise past_end_error(key, start)
        header = b"".join(self.inner.read_range(key, 0, HEADER_BYTES))
        if not header.startswith(MAGIC):
            raise self._unsealed(key)
        return self._opened(
            key, header[len(MAGIC) :], start, min(stop or size_bytes, size_bytes), sealed_bytes
        )

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

    def _opened(self, key: str, salt: bytes, start: int, stop: int, sealed_bytes: int) -> Iterator[bytes]:
        last = max(_plain_bytes(sealed_bytes) - 1, 0) // BLOCK_BYTES
        for number in range(start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES + 1):
            first = HEADER_BYTES + number * (BLOCK_BYTES + TAG_BYTES)
            sealed = b"".join(self.inner.read_range(key, first, first + BLOCK_BYTES + TAG_BYTES))
            try:
                block = self._cipher.decrypt(_nonce(salt, number, number == last), sealed, key.encode())
            except (InvalidTag, ValueError) as error:
                raise self._damaged(key) from error
            offset = number * BLOCK_BYTES
            wanted = block[max(start - offset, 0) : stop - offset]
            yield from (wanted[i : i + PIECE_BYTES] for i in range(0, len(wanted), PIECE_BYTES))

    def _unsealed(self, key: str) -> StorageError:
        return StorageError(f"{key} in {self.inner} is not encrypted: unset {KEY_VARIABLE} to read it")

    def _damaged(self, key: str) -> StorageError:
        return StorageError(
            f"{key} in {self.inner} cannot be opened: it is damaged, or {KEY_VARIABLE} is not the key it was "
            "sealed with"
        )


def open_sealed_store(url: str | None = None) -> ObjectStore:
    """Opens the store of an address (`default_url()` without one), encrypted if the environment has a key."""
    store = open_store(url or default_url())
    key = key_from_environment()
    return EncryptedStore(store, key) if key else store


def key_from_environment() -> bytes | None:
    """The 32 bytes of `GAMEGEN_STORE_KEY` (base64), None if it is not set; raises StorageError for anything else."""
    text = os.environ.get(KEY_VARIABLE)
    if not text:
        return None
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise StorageError(
            f"{KEY_VARIABLE} is not 32 bytes in base64: make a key with `openssl rand -base64 32`"
        )
    return key


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
