"""Who asks: API keys, each of an account. Where none are set everybody is the same account."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import HTTPConnection

from deployments.errors import ApiError

LOCAL = "local"
"""Everybody's account while there are no keys."""
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Accounts:
    """Accounts with the SHA-256 of their keys. Keys are random and long: there is nothing to guess."""

    digests: Sequence[tuple[str, bytes]] = ()

    @classmethod
    def from_environment(cls) -> Accounts:
        """The keys in the file that `GAMEGEN_API_KEYS` names, none without it; raises ValueError and OSError."""
        path = os.environ.get("GAMEGEN_API_KEYS")
        return cls.read(Path(path)) if path else cls()

    @classmethod
    def read(cls, file: Path) -> Accounts:
        """A file of lines `account sha256-of-the-key`; several of one account are as many keys. `#` begins a comment.

        Raises ValueError naming the line, and for a file without keys: it would open the service to everybody.
        """
        digests = []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) != 2 or not _NAME.fullmatch(words[0]) or not _SHA256.fullmatch(words[1]):
                # The line itself is not shown: it may hold a key.
                raise ValueError(
                    f"{file}, line {number}: write an account and its key's SHA-256 in hexadecimal"
                )
            digests.append((words[0], bytes.fromhex(words[1])))
        if not digests:
            raise ValueError(f"{file} has no keys: add one, or leave GAMEGEN_API_KEYS unset")
        return cls(tuple(digests))

    def account_of(self, request: HTTPConnection) -> str:
        """Whose key a request carries; raises ApiError (401)."""
        if not self.digests:
            return LOCAL
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        presented = hashlib.sha256(key.strip().encode()).digest()
        # All of them are compared, and each in constant time: how long it takes tells nothing.
        found = [name for name, known in self.digests if hmac.compare_digest(known, presented)]
        if scheme.lower() != "bearer" or not found:
            message = "send an API key that this server knows: Authorization: Bearer KEY"
            raise ApiError(401, "unauthorized", message)
        return found[0]
