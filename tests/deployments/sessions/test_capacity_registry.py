"""The registry of world replicas' capacity on a real Valkey server."""

from __future__ import annotations

from deployments.sessions import capacity_registry
from deployments.sessions.capacity_registry import CapacityRegistry, PlayCapacity
from tests.stopped_clock import StoppedClock


async def test_world_replicas_offer_places_while_they_are_there(valkey):
    registry = CapacityRegistry(valkey)
    await registry.offer("one", 8, 60)
    await registry.offer("two", 4, 60)
    await registry.offer("dead", 4, 0)
    assert await registry.total() == 12
    await registry.offer("two", 0, 60)
    assert await registry.total() == 8


async def test_the_capacity_is_read_once_a_second_and_has_a_limit(valkey, monkeypatch):
    clock = StoppedClock()
    monkeypatch.setattr(capacity_registry, "time", clock)
    registry = CapacityRegistry(valkey)
    capacity = PlayCapacity(registry, max_sessions=9)
    await registry.offer("one", 8, 60)
    assert await capacity.current() == 8
    await registry.offer("two", 4, 60)
    assert await capacity.current() == 8
    clock.now += 1.5
    assert await capacity.current() == 9
