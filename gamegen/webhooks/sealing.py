"""Short texts sealed with AES-256-GCM for the database, by a key derived from the object store's."""

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
    """A sealed text that this key does not open, or no key; the message says what to do."""


class Seal:
    """Seals texts if there is a key of 32 bytes, and leaves them as they are if there is none."""

    def __init__(self, key: bytes | None) -> None:
        self._cipher = AESGCM(HKDF(SHA256(), 32, None, _PURPOSE).derive(key)) if key else None

    @classmethod
    def from_environment(cls) -> Seal:
        """By `GAMEGEN_STORE_KEY`; raises ValueError if that is no key."""
        return cls(key_from_environment())

    def close(self, text: str, owner: str) -> str:
        """What is written down; it can be opened for the same owner only."""
        if self._cipher is None:
            return text
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, text.encode(), owner.encode())
        return _MARK + base64.b64encode(nonce + sealed).decode()

    def open(self, stored: str, owner: str) -> str:
        """The inverse, also of what was written when there was no key; raises UnreadableSecretError."""
        if not stored.startswith(_MARK):
            return stored
        if self._cipher is None:
            raise UnreadableSecretError(f"a webhook secret is encrypted: set {KEY_VARIABLE} to use it")
        try:
            sealed = base64.b64decode(stored.removeprefix(_MARK), validate=True)
            text = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner.encode())
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise UnreadableSecretError(
                f"a webhook secret cannot be opened: it is damaged, or {KEY_VARIABLE} is not the key it was "
                "sealed with; restore that key, or make a new secret with no overlap"
            ) from error
        return text.decode()
