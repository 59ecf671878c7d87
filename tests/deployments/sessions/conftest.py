"""A session store and its queue, on an empty database of a real Valkey server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from valkey.asyncio import Valkey

from deployments.sessions.admission_queue import AdmissionQueue
from deployments.sessions.limits import StoreLimits
from deployments.sessions.store import SessionStore
from deployments.sessions.valkey_client import connect

LIMITS = StoreLimits(kept_s=60, lease_s=30, return_s=30)


@pytest.fixture
async def valkey(own_url: str) -> AsyncIterator[Valkey]:
    client = connect(own_url)
    yield client
    await client.aclose()


@pytest.fixture
def store(valkey: Valkey) -> SessionStore:
    return SessionStore(valkey, LIMITS)


@pytest.fixture
def queue(valkey: Valkey) -> AdmissionQueue:
    return AdmissionQueue(valkey, LIMITS)
