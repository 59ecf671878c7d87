"""API keys and their accounts; without keys all requests belong to one account."""

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
"""The account of all requests while there are no keys."""
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ApiKeys:
    """SHA-256 digests of API keys with their accounts. Keys are long and random, so plain SHA-256 protects them."""

    digests: Sequence[tuple[str, bytes]] = ()

    @classmethod
    def from_environment(cls) -> ApiKeys:
        """The keys of the file that `GAMEGEN_API_KEYS` names, no keys if it is unset; raises ValueError and OSError."""
        path = os.environ.get("GAMEGEN_API_KEYS")
        return cls.read(Path(path)) if path else cls()

    @classmethod
    def read(cls, file: Path) -> ApiKeys:
        """The keys of a file with lines `account sha256-of-the-key`; an account may have several. `#` starts a comment.

        Raises ValueError naming a malformed line, and for a file without keys, which would admit every client.
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
        """The account of a request's key; raises ApiError (401)."""
        if not self.digests:
            return LOCAL
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        presented = hashlib.sha256(key.strip().encode()).digest()
        # Each is compared in constant time and all are compared, so the duration reveals nothing.
        found = [name for name, known in self.digests if hmac.compare_digest(known, presented)]
        if scheme.lower() != "bearer" or not found:
            message = "send an API key that this server knows: Authorization: Bearer KEY"
            raise ApiError(401, "unauthorized", message)
        return found[0]
