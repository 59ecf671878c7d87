"""Who is let in, on a real store."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import pytest
from valkey.asyncio import Valkey

from deployments.errors import ApiError
from deployments.ingress.sessions_api import SessionService
from deployments.sessions import capacity_registry
from deployments.sessions.admission_queue import AdmissionQueue
from deployments.sessions.capacity_registry import CapacityRegistry, PlayCapacity
from deployments.sessions.store import SessionStore
from deployments.sessions.valkey_client import connect
from deployments.settings import ServeSettings
from gamegen.sessions.log import WorldSpec

SPEC = WorldSpec(model="nano", prompt="desert at noon", perspective="first", seed=7, width=160, height=96)


@pytest.fixture
async def valkey(own_url: str) -> AsyncIterator[Valkey]:
    client = connect(own_url)
    yield client
    await client.aclose()


@pytest.fixture
def registry(valkey: Valkey) -> CapacityRegistry:
    return CapacityRegistry(valkey)


@pytest.fixture
def service(valkey: Valkey, registry: CapacityRegistry, monkeypatch) -> SessionService:
    """Eight play at most, and one waits."""
    monkeypatch.setattr(capacity_registry, "_CACHED_S", -1)
    settings = ServeSettings()
    ingress = dataclasses.replace(settings.ingress, max_sessions=8, max_queued=1)
    limits = SessionService.store_limits(settings)
    return SessionService(
        settings=dataclasses.replace(settings, ingress=ingress),
        store=SessionStore(valkey, limits),
        queue=AdmissionQueue(valkey, limits),
        capacity=PlayCapacity(registry, max_sessions=8),
    )


async def refusal(service: SessionService) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await service.create(SPEC, 0)
    return refused.value


async def test_as_many_are_let_in_as_are_carried_and_may_wait(service, registry):
    await registry.offer("one", 2, 60)
    for _ in range(3):
        await service.create(SPEC, 0)
    full = await refusal(service)
    assert (full.status, full.code, full.retry_after_s) == (429, "too_many_sessions", 30)
    assert "3 sessions" in full.message and "30 s" in full.message
    await registry.offer("one", 3, 60)
    await service.create(SPEC, 0)
    # The replica draws too slowly: who is here stays.
    await registry.offer("one", 1, 60)
    assert (await refusal(service)).code == "too_many_sessions"
    counts = await service.counts()
    assert (counts["live"], counts["places"], counts["limit"]) == (4, 1, 8)
    await registry.offer("two", 100, 60)
    assert (await service.counts())["places"] == 8


async def test_while_no_replica_takes_players_only_the_queue_does(service):
    await service.create(SPEC, 0)
    away = await refusal(service)
    assert (away.status, away.code, away.retry_after_s) == (503, "not_ready", 5)
