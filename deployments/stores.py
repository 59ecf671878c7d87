"""URLs of the stores that outlive the application's processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StoreUrls:
    """URLs of the session store (Valkey or Redis), the clip service's database and its object store."""

    sessions: str
    database: str
    objects: str
