"""Encryption of short texts for the database, by AES-256-GCM with a key derived from the object store's."""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gamegen.storage.store_keys import KEY_VARIABLE, OLD_KEYS_VARIABLE, StoreKeys

_MARK = "sealed1:"
_NONCE_BYTES = 12
_PURPOSE = b"gamegen webhook secrets"


class UnreadableSecretError(ValueError):
    """An encrypted text that this key cannot decrypt; the message says what to do."""


class SecretBox:
    """Encrypts texts with the newest of the object store's keys, and opens what any of them sealed.

    Without keys texts stay plain.
    """

    def __init__(self, keys: StoreKeys | None) -> None:
        self._ciphers = [AESGCM(HKDF(SHA256(), 32, None, _PURPOSE).derive(key)) for key in keys or ()]

    @classmethod
    def from_environment(cls) -> SecretBox:
        """A box with the keys of the environment; raises ValueError if one is not valid."""
        return cls(StoreKeys.from_environment())

    def seal(self, text: str, owner: str) -> str:
        """The encrypted text, which opens for the same `owner` only."""
        if not self._ciphers:
            return text
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[0].encrypt(nonce, text.encode(), owner.encode())
        return _MARK + base64.b64encode(nonce + sealed).decode()

    def open(self, stored: str, owner: str) -> str:
        """The inverse of `seal`, also for texts stored without a key; raises UnreadableSecretError."""
        if not stored.startswith(_MARK):
            return stored
        if not self._ciphers:
            raise UnreadableSecretError(f"a webhook secret is encrypted: set {KEY_VARIABLE} to use it")
        for cipher in self._ciphers:
            try:
                sealed = base64.b64decode(stored.removeprefix(_MARK), validate=True)
                return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner.encode()).decode()
            except (InvalidTag, ValueError, binascii.Error):
                continue
        raise UnreadableSecretError(
            f"a webhook secret cannot be decrypted: it is damaged, or {KEY_VARIABLE} is not the key it was encrypted "
            f"with; name that key in {OLD_KEYS_VARIABLE}, or make a new secret with no overlap"
        )
