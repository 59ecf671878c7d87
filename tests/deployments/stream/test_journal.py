"""A session's log while its store is away, with a real Valkey server that is stopped and started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from deployments.embedded_store import embedded_store
from deployments.sessions.limits import StoreLimits
from deployments.sessions.session_record import LoggedChunk, SessionRecord
from deployments.sessions.store import SessionStore
from deployments.sessions.store_errors import SessionGoneError, SessionMovedError
from deployments.sessions.valkey_client import connect
from deployments.stream import journal as journals
from deployments.stream.journal import SessionJournal
from gamegen.controls import Control
from gamegen.sessions.log import LoggedInstruction, LoggedVideoPrompt, VideoPrompt, WorldSpec

SPEC = WorldSpec(model="nano", prompt="desert at noon", perspective="first", seed=7, width=160, height=96)
WALK = VideoPrompt("motion", b"\0mp4")


@contextmanager
def running(folder: Path) -> Iterator[None]:
    with embedded_store(folder):
        yield


@pytest.fixture
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[SessionStore, Path]]:
    folder = tmp_path_factory.mktemp("valkey")
    valkey = connect(f"unix://{folder / 'valkey.sock'}")
    yield SessionStore(valkey, StoreLimits(kept_s=60)), folder
    await valkey.aclose()


async def claimed(store: SessionStore) -> SessionJournal:
    record, _ = SessionRecord.new("a", SPEC)
    await store.create(record, 3)
    return SessionJournal(store, await store.claim("a"))


async def test_play_goes_on_while_the_store_is_away_and_nothing_of_it_is_lost(store, monkeypatch):
    monkeypatch.setattr(journals, "_RETRY_S", 0.0)
    store, folder = store
    with running(folder):
        journal = await claimed(store)
        journal.add(LoggedChunk(Control({"w"}), (LoggedInstruction(0, "snow"),)))
        await journal.flush()
        await store.keep_video_prompt("a", WALK, 8)
    journal.keep(WALK)
    for chunk in range(3):
        followed = (LoggedVideoPrompt(2, WALK.id),) if chunk == 1 else ()
        logged = LoggedChunk(Control({"left"}, chunk), followed=followed)
        journal.add(logged, b"snapshot" if chunk == 1 else None)
        await journal.flush()
    assert journal.num_held_back == 3
    # It kept nothing: all of the session has to be entered again.
    with running(folder):
        await journal.flush()
        assert journal.num_held_back == 0
        assert await store.get("a") == journal.record
        journal.add(LoggedChunk(Control()))
        await journal.flush()
        found = await store.get("a")
        assert found.log() == journal.record.log() and found.version == 5
        assert found.followed == [LoggedVideoPrompt(2, WALK.id)] and found.video_prompts == {WALK.id: WALK}
        assert (found.snapshot_version, found.snapshot) == (2, b"snapshot")


async def test_a_store_that_is_away_is_not_asked_with_every_chunk(store, monkeypatch):
    store, folder = store
    with running(folder):
        journal = await claimed(store)
    asked = []

    async def commit(record, **_):
        asked.append(record)
        raise ConnectionError("nobody there")

    monkeypatch.setattr(store, "commit", commit)
    for _ in range(5):
        journal.add(LoggedChunk(Control()))
        await journal.flush()
    assert len(asked) == 1 and journal.num_held_back == 5


async def test_what_others_took_or_ended_is_not_written_again(store):
    store, folder = store
    with running(folder):
        journal = await claimed(store)
        await store.claim("a")
        journal.add(LoggedChunk(Control()))
        with pytest.raises(SessionMovedError):
            await journal.flush()
        await store.delete("a")
        with pytest.raises(SessionGoneError):
            await journal.flush()
        with pytest.raises(SessionGoneError):
            await store.get("a")


async def test_what_a_released_session_leaves_unsent_is_not_counted(store, monkeypatch):
    """The last flush may fail, or be cancelled, after the session is released."""
    store, folder = store
    with running(folder):
        journal = await claimed(store)
    held_back: list[int] = []
    monkeypatch.setattr(journals, "CHUNKS_HELD_BACK", SimpleNamespace(add=held_back.append))
    asked, may_fail = asyncio.Event(), asyncio.Event()

    async def commit(*_, **__):
        asked.set()
        await may_fail.wait()
        raise OSError("the store is away")

    monkeypatch.setattr(store, "commit", commit)
    journal.add(LoggedChunk(Control()))
    flush = asyncio.create_task(journal.flush())
    await asked.wait()
    await journal.release()
    may_fail.set()
    await flush
    assert sum(held_back) == 0
