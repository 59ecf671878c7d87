"""Encryption keys of the object store, from the environment, and the cipher derived for each object."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gamegen.storage.interface import StorageError

KEY_VARIABLE = "GAMEGEN_STORE_KEY"
"""The key that objects are sealed with: 32 bytes in base64."""
OLD_KEYS_VARIABLE = "GAMEGEN_STORE_OLD_KEYS"
"""Earlier keys, separated by commas, which still decrypt."""
KEY_ID_BYTES = 2
PREFIX_BYTES = 7
"""Length of the prefix that all nonces of an object share."""
_PURPOSE = b"gamegen object "


class ObjectCipher(NamedTuple):
    """The cipher of one object, and the prefix of its nonces."""

    cipher: AESGCM
    prefix: bytes


@dataclass(frozen=True)
class StoreKeys:
    """Master keys of 32 bytes: `newest` seals, and `older` ones open too. Raises StorageError for another length."""

    newest: bytes = field(repr=False)
    older: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for key in self:
            if len(key) != 32:
                raise StorageError(f"a key has {len(key)} bytes: it must have 32")

    def __iter__(self) -> Iterator[bytes]:
        """All keys, the newest first."""
        return iter((self.newest, *self.older))

    @classmethod
    def from_environment(cls) -> StoreKeys | None:
        """The keys of `GAMEGEN_STORE_KEY` and `GAMEGEN_STORE_OLD_KEYS`, None if neither is set.

        Raises StorageError for anything but 32 bytes in base64, or old keys without a new one.
        """
        newest, older = os.environ.get(KEY_VARIABLE), os.environ.get(OLD_KEYS_VARIABLE)
        if not newest:
            if older:
                raise StorageError(
                    f"{OLD_KEYS_VARIABLE} is set and {KEY_VARIABLE} is not: set the key to seal with"
                )
            return None
        texts = [text.strip() for text in (older or "").split(",") if text.strip()]
        return cls(_decoded(newest, KEY_VARIABLE), tuple(_decoded(text, OLD_KEYS_VARIABLE) for text in texts))

    def of_id(self, key_id: bytes) -> list[bytes]:
        """The keys of an id, usually one."""
        return [key for key in self if id_of(key) == key_id]


def id_of(key: bytes) -> bytes:
    """The id of a key: the first two bytes of a hash of it."""
    return hashlib.sha256(b"gamegen key id" + key).digest()[:KEY_ID_BYTES]


def object_cipher(key: bytes, name: str, salt: bytes) -> ObjectCipher:
    """The cipher of the object `name`: its key and prefix are derived from the master key (HKDF, RFC 5869)."""
    derived = HKDF(SHA256(), 32 + PREFIX_BYTES, salt, _PURPOSE + name.encode()).derive(key)
    return ObjectCipher(AESGCM(derived[:32]), derived[32:])


def _decoded(text: str, variable: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise StorageError(f"{variable} is not 32 bytes in base64: make a key with `openssl rand -base64 32`")
    return key
