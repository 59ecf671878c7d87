"""The admission queue on a real Valkey server."""

from __future__ import annotations

import pytest

from deployments.sessions import admission_queue
from deployments.sessions import store as session_store
from deployments.sessions.admission_queue import AdmissionQueue
from deployments.sessions.limits import StoreLimits
from deployments.sessions.session_record import SessionRecord
from deployments.sessions.store import SessionStore
from deployments.sessions.store_errors import StoreFullError, UserFullError
from tests.deployments.sessions.samples import SPEC, enter
from tests.stopped_clock import StoppedClock


async def test_players_wait_in_the_order_they_came(store, queue):
    for name in "abc":
        await enter(store, name)
    assert [await queue.admit(name, 1) for name in "abcab"] == [0, 1, 2, 0, 1]
    assert await queue.counts() == {"live": 3, "playing": 1, "queued": 2}
    await store.delete("a")
    # The one behind cannot pass the one before it.
    assert await queue.admit("c", 1) == 2
    assert await queue.admit("b", 1) == 0
    assert await queue.admit("c", 1) == 1
    assert await queue.admit("c", 2) == 0


async def test_a_crowd_over_the_capacity_plays_on_and_nobody_comes_until_it_has_shrunk(store, queue):
    for name in "abc":
        await enter(store, name)
    assert [await queue.admit(name, 3) for name in "ab"] == [0, 0]
    assert [await queue.admit(name, 1) for name in "abc"] == [0, 0, 1]
    with pytest.raises(StoreFullError, match="2 sessions"):
        await store.create(SessionRecord.new("d", SPEC)[0], 2)
    await store.delete("a")
    assert await queue.admit("c", 1) == 1
    await store.delete("b")
    assert await queue.admit("c", 1) == 0


async def test_sessions_that_nobody_plays_do_not_count_until_they_are_played_again(valkey):
    limits = StoreLimits(kept_s=60, lease_s=30, return_s=0, max_of_user=1)
    store, queue = SessionStore(valkey, limits), AdmissionQueue(valkey, limits)
    for name in "ab":
        await store.create(SessionRecord.new(name, SPEC, "ann")[0], 100)
    assert await queue.admit("a", 9) == 0
    with pytest.raises(UserFullError):
        await queue.admit("b", 9)
    assert await queue.admit("a", 9) == 0
    await store.release(await store.claim("a"))
    assert await queue.admit("b", 9) == 0
    assert await queue.counts() == {"live": 1, "playing": 1, "queued": 0}


async def test_who_finds_no_place_is_told_to_come_back_when_one_may_be_given(store, queue, monkeypatch):
    clock = StoppedClock()
    for module in (admission_queue, session_store):
        monkeypatch.setattr(module, "time", clock)
    assert await queue.retry_after_s() == 30
    for name in "abc":
        await enter(store, name)
        assert await queue.admit(name, 3) == 0
        clock.now += 20
    assert await queue.retry_after_s() == 20
    assert await queue.retry_after_s(2) == 40
    # Whoever plays already is given none.
    assert await queue.admit("c", 3) == 0
    clock.now += 600
    assert await queue.retry_after_s() == 120
    for _ in range(40):
        await store.delete("c")
        await enter(store, "c")
        assert await queue.admit("c", 3) == 0
    assert await queue.retry_after_s() == 5


async def test_whoever_is_silent_loses_their_place(valkey):
    limits = StoreLimits(kept_s=60, lease_s=0, return_s=0)
    store, queue = SessionStore(valkey, limits), AdmissionQueue(valkey, limits)
    await enter(store, "a")
    assert await queue.admit("a", 1) == 0
    assert await queue.admit("b", 1) == 0
