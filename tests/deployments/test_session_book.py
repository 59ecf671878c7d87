"""Who is let in, on a real store."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import pytest

from deployments import sessions
from deployments.errors import ApiError
from deployments.session_store import SessionStore
from deployments.sessions import SessionBook
from deployments.settings import ServeSettings
from gamegen.session_log import WorldSpec

SPEC = WorldSpec("nano", "desert at noon", "first", 7, 160, 96)


@pytest.fixture
async def store(own_url: str) -> AsyncIterator[SessionStore]:
    store = SessionStore(own_url, SessionBook.store_limits(ServeSettings()))
    yield store
    await store.close()


@pytest.fixture
def book(store: SessionStore, monkeypatch) -> SessionBook:
    """Eight play at most, and one waits."""
    monkeypatch.setattr(sessions, "_PLACES_KEPT_S", -1)
    settings = ServeSettings()
    ingress = dataclasses.replace(settings.ingress, max_sessions=8, max_queued=1)
    return SessionBook(dataclasses.replace(settings, ingress=ingress), store)


async def refusal(book: SessionBook) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await book.create(SPEC, 0)
    return refused.value


async def test_as_many_are_let_in_as_are_carried_and_may_wait(book, store):
    await store.offer_places("one", 2, 60)
    for _ in range(3):
        await book.create(SPEC, 0)
    full = await refusal(book)
    assert (full.status, full.code, full.retry_after_s) == (429, "too_many_sessions", 30)
    assert "3 sessions" in full.message and "30 s" in full.message
    await store.offer_places("one", 3, 60)
    await book.create(SPEC, 0)
    # The replica draws too slowly: who is here stays.
    await store.offer_places("one", 1, 60)
    assert (await refusal(book)).code == "too_many_sessions"
    counts = await book.counts()
    assert (counts["live"], counts["places"], counts["limit"]) == (4, 1, 8)
    await store.offer_places("two", 100, 60)
    assert await book.capacity() == 8


async def test_while_no_replica_takes_players_only_the_queue_does(book):
    await book.create(SPEC, 0)
    away = await refusal(book)
    assert (away.status, away.code, away.retry_after_s) == (503, "not_ready", 5)
