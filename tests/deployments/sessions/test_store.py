"""The session store on a real Valkey server."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from valkey.asyncio import Valkey

from deployments.sessions.limits import StoreLimits
from deployments.sessions.session_record import Counters, LoggedChunk, SessionRecord
from deployments.sessions.store import SessionStore
from deployments.sessions.store_errors import (
    PromptsFullError,
    SessionGoneError,
    SessionMovedError,
    StoreFullError,
    UserFullError,
)
from deployments.sessions.valkey_client import connect
from gamegen.controls import Control
from gamegen.sessions.log import LoggedInstruction, LoggedVideoPrompt, SessionLog, VideoPrompt
from tests.deployments.sessions.samples import SPEC, enter

PLAYING = Counters("playing", 0, 0)
W = LoggedChunk(Control({"w"}))


async def test_a_session_comes_back_as_it_was_entered(store):
    record, token = SessionRecord.new("a", SPEC, first_chunks=7)
    await store.create(record, 3)
    assert await store.get("a") == record
    assert (await store.claim("a")).first_chunks == (await store.summary("a")).first_chunks == 7
    assert record.is_token(token) and not record.is_token(token + "x")
    with pytest.raises(SessionGoneError):
        await store.get("b")


async def test_chunks_are_logged_once_however_often_they_are_sent(store):
    await enter(store)
    record = await store.claim("a")
    said = LoggedInstruction(1, "make it rain", 6)
    chunks = [W, LoggedChunk(Control({"left"}, 1.5), (said,)), W]
    await store.commit(record, since=0, chunks=chunks[:2], counters=PLAYING)
    recovering = Counters("recovering", 8, 1)
    await store.commit(record, since=0, chunks=chunks, counters=recovering, snapshot=(2, b"snapshot\x00"))
    found = await store.get("a")
    assert found.log() == SessionLog(SPEC, [e.control for e in chunks], [said])
    assert (found.version, found.snapshot_version, found.snapshot) == (3, 2, b"snapshot\x00")
    assert (found.state, found.frames_sent, found.frames_dropped) == ("recovering", 8, 1)
    assert found.instruction == "make it rain"


async def test_a_summary_says_the_same_but_for_what_grows(store, queue):
    record, _ = SessionRecord.new("a", SPEC)
    await store.create(record, 3)
    claimed = await store.claim("a")
    said = LoggedInstruction(0, "snow"), LoggedInstruction(1, "rain")
    await store.commit(
        claimed,
        since=0,
        chunks=[LoggedChunk(Control(), (words,)) for words in said],
        counters=PLAYING,
        snapshot=(2, b"snapshot"),
    )
    assert await queue.admit("a", 1) == 0
    found, short = await store.get("a"), await store.summary("a")
    bare = dataclasses.replace(found, controls=b"", spoken=[said[1]], snapshot=None)
    assert short == dataclasses.replace(bare, spec=dataclasses.replace(SPEC, first_frames=None))
    assert short.version == 2 and short.state == "playing"
    with pytest.raises(SessionGoneError):
        await store.summary("b")


async def test_video_prompts_are_kept_with_their_session_and_logged_when_they_are_followed(store):
    await enter(store)
    walk, run = VideoPrompt("motion", b"\0mp4\0"), VideoPrompt("canny", b"\xff")
    for prompt in (walk, walk, run):
        await store.keep_video_prompt("a", prompt, 2)
    with pytest.raises(PromptsFullError, match="2 video prompts already"):
        await store.keep_video_prompt("a", VideoPrompt("pose", b""), 2)
    with pytest.raises(SessionGoneError):
        await store.keep_video_prompt("b", walk, 2)
    assert await store.video_prompt("a", run.id) == run
    assert await store.video_prompt("a", "x") is None
    record = await store.claim("a")
    assert record.video_prompts == {walk.id: walk, run.id: run}
    record = dataclasses.replace(record, followed=[LoggedVideoPrompt(1, walk.id)])
    chunks = [W, LoggedChunk(Control(), followed=(LoggedVideoPrompt(1, walk.id),))]
    await store.commit(record, since=0, chunks=chunks, counters=PLAYING)
    await store.commit(record, since=0, chunks=chunks, counters=PLAYING)
    await store.commit(record, since=2, chunks=[W], counters=PLAYING)
    found = await store.get("a")
    assert found.followed == [LoggedVideoPrompt(1, walk.id)]
    # Nobody followed the other.
    assert found.log().video_prompts == {walk.id: walk}
    short = await store.summary("a")
    assert not short.followed and not short.video_prompts
    await store.delete("a")
    assert await store.video_prompt("a", run.id) is None


async def test_of_two_owners_only_the_later_one_can_write(store, queue):
    await enter(store)
    first, second = await store.claim("a"), await store.claim("a")
    with pytest.raises(SessionMovedError):
        await store.commit(first, since=0, chunks=[W], counters=PLAYING)
    await store.commit(second, since=0, chunks=[W], counters=PLAYING)
    assert (await store.get("a")).version == 1
    # Nor can the earlier one give away what is not its own.
    await store.release(first)
    assert (await queue.counts())["playing"] == 1
    await store.release(second)
    assert await queue.counts() == {"live": 1, "playing": 0, "queued": 0}


async def test_many_owners_at_once_leave_one_unbroken_log(store):
    await enter(store)

    async def carry_on(number: int) -> int:
        written = 0
        record = await store.claim("a")
        for version in range(record.version, record.version + 20):
            try:
                await store.commit(
                    record, since=version, chunks=[LoggedChunk(Control({"w"}, number / 4))], counters=PLAYING
                )
            except SessionMovedError:
                break
            written += 1
        return written

    written = await asyncio.gather(*(carry_on(i) for i in range(8)))
    found = await store.get("a")
    assert found.version == len(found.log().controls) == sum(written)
    assert found.fence == 8


async def test_what_a_restarted_store_has_lost_is_put_back_and_what_was_deleted_is_not(store, own_url):
    await enter(store)
    record = await store.claim("a")
    await store.commit(record, since=0, chunks=[W], counters=PLAYING)
    whole = await store.get("a")
    await Valkey.from_url(own_url).flushdb()
    with pytest.raises(LookupError):
        await store.commit(record, since=1, chunks=[W], counters=PLAYING)
    await store.restore(whole)
    await store.commit(record, since=1, chunks=[W], counters=PLAYING)
    assert (await store.get("a")).version == 2
    await store.delete("a")
    with pytest.raises(SessionGoneError):
        await store.commit(record, since=2, chunks=[W], counters=PLAYING)
    with pytest.raises(SessionGoneError):
        await store.delete("a")


async def test_no_more_than_so_many_live_and_those_who_left_make_room(store):
    for name in "abc":
        await enter(store, name)
    with pytest.raises(StoreFullError, match="3 sessions"):
        await enter(store, "d")
    await store.delete("b")
    await enter(store, "d")
    listed, total = await store.listed(2, 1)
    assert ([r.id for r in listed], total) == (["c", "a"], 3)


async def test_a_user_has_so_many_live_sessions_however_many_ingresses_are_asked_at_once(own_url):
    limits = StoreLimits(kept_s=60, lease_s=30, return_s=30, max_of_user=2)
    clients = [connect(own_url) for _ in range(8)]
    stores = [SessionStore(client, limits) for client in clients]

    async def begin(number: int, user: str) -> str:
        try:
            await stores[number % 8].create(SessionRecord.new(f"{user}{number}", SPEC, user)[0], 100)
        except UserFullError as error:
            return str(error)
        return ""

    answers = await asyncio.gather(*(begin(number, user) for number in range(16) for user in ("ann", "bob")))
    assert answers.count("") == 4
    assert all("limit is 2" in answer and "DELETE" in answer for answer in answers if answer)
    # Nobody in particular may have any number.
    assert [await begin(number, "") for number in range(8)] == [""] * 8
    mine, _ = await stores[0].listed(100, 0)
    await stores[1].delete(next(record.id for record in mine if record.user == "ann"))
    assert [bool(await begin(number, "ann")) for number in (20, 21)] == [False, True]
    for client in clients:
        await client.aclose()


async def test_users_are_kept_under_names_that_only_the_store_can_tell(store, own_url):
    name = await store.pseudonym("203.0.113.5")
    assert name == await store.pseudonym("203.0.113.5") != await store.pseudonym("203.0.113.6")
    assert await store.pseudonym("") == "" and "203" not in name
    await Valkey.from_url(own_url).flushdb()
    assert await store.pseudonym("203.0.113.5") != name


async def test_a_record_without_first_frames_has_none(store):
    record, _ = SessionRecord.new("a", dataclasses.replace(SPEC, first_frames=None))
    await store.create(record, 3)
    assert (await store.get("a")).spec.first_frames is None
