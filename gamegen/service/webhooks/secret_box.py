"""Encryption of short texts for the database, by AES-256-GCM with a key derived from the object store's."""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gamegen.storage.encryption import KEY_VARIABLE, key_from_environment

_MARK = "sealed1:"
_NONCE_BYTES = 12
_PURPOSE = b"gamegen webhook secrets"


class UnreadableSecretError(ValueError):
    """An encrypted text that this key cannot decrypt; the message says what to do."""


class SecretBox:
    """Encrypts texts with a key of 32 bytes; without a key they stay plain."""

    def __init__(self, key: bytes | None) -> None:
        self._cipher = AESGCM(HKDF(SHA256(), 32, None, _PURPOSE).derive(key)) if key else None

    @classmethod
    def from_environment(cls) -> SecretBox:
        """A box with the key of `GAMEGEN_STORE_KEY`; raises ValueError if that is not a valid key."""
        return cls(key_from_environment())

    def seal(self, text: str, owner: str) -> str:
        """The encrypted text, which opens for the same `owner` only."""
        if self._cipher is None:
            return text
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, text.encode(), owner.encode())
        return _MARK + base64.b64encode(nonce + sealed).decode()

    def open(self, stored: str, owner: str) -> str:
        """The inverse of `seal`, also for texts stored without a key; raises UnreadableSecretError."""
        if not stored.startswith(_MARK):
            return stored
        if self._cipher is None:
            raise UnreadableSecretError(f"a webhook secret is encrypted: set {KEY_VARIABLE} to use it")
        try:
            sealed = base64.b64decode(stored.removeprefix(_MARK), validate=True)
            text = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner.encode())
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise UnreadableSecretError(
                f"a webhook secret cannot be decrypted: it is damaged, or {KEY_VARIABLE} is not the key it was "
                "encrypted with; restore that key, or make a new secret with no overlap"
            ) from error
        return text.decode()
