"""Where the application keeps what outlives its processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Places:
    """The session store (Valkey or Redis), the database of the clip service, and the store of its files."""

    store_url: str
    database_url: str
    objects_url: str
