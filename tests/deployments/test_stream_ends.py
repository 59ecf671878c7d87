"""How a socket ends before anything is played, with a store and a client that are not there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from typing import Any, cast

import pytest

from deployments import stream as streams
from deployments import tasks
from deployments.connection import (
    CLOSE_ENDED,
    CLOSE_MIGRATE,
    CLOSE_TAKEN_OVER,
    CLOSE_TOO_MANY_MESSAGES,
    CLOSE_WRONG_TOKEN,
    Connection,
)
from deployments.held_controls import HeldControls
from deployments.rebuild_turns import RebuildTurns
from deployments.session_record import SessionRecord
from deployments.session_store import SessionGoneError, SessionMovedError, UserFullError
from deployments.settings import ServeSettings
from deployments.stream import Backstage, Stream
from gamegen.session_log import WorldSpec
from tests.deployments.fake_socket import Socket, text

RECORD, TOKEN = SessionRecord.new("one", WorldSpec("nano", "desert", "first", 0, 32, 32))
HELLO = text(json.dumps({"type": "hello", "token": TOKEN}))
PENDING = RuntimeError("it never answers")


class Store:
    """Has one session, which is lost as soon as it is claimed."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure
        self.released: list[str] = []

    async def summary(self, session_id: str) -> SessionRecord:
        return RECORD

    async def admit(self, session_id: str, capacity: int) -> int:
        return 0

    async def claim(self, session_id: str) -> SessionRecord:
        return RECORD

    async def commit(self, *_: Any) -> None:
        if self._failure is PENDING:
            await asyncio.Event().wait()
        raise self._failure

    async def release(self, record: SessionRecord) -> None:
        self.released.append(record.id)


async def capacity() -> int:
    return 1


async def run(socket: Socket, store: Store, hello_timeout_s: float = 10.0) -> None:
    settings = ServeSettings()
    ingress = dataclasses.replace(settings.ingress, hello_timeout_s=hello_timeout_s)
    settings = dataclasses.replace(settings, ingress=ingress)
    backstage = Backstage(
        settings, cast(Any, store), *cast(Any, (None, None, None, None)), capacity, RebuildTurns(1)
    )
    await Stream(RECORD.id, Connection(cast(Any, socket), ingress), backstage).run()


@pytest.mark.parametrize(
    "failure, code, kind",
    [
        (SessionMovedError("taken"), CLOSE_TAKEN_OVER, "bye"),
        (SessionGoneError("deleted"), CLOSE_ENDED, "bye"),
        (RuntimeError("a fault"), CLOSE_MIGRATE, "migrate"),
    ],
)
async def test_a_session_that_is_lost_before_it_begins_is_told_so(failure, code, kind):
    """Sockets that come at once take the session from each other between the claim and the first commit."""
    socket, store = Socket(HELLO, leaves=False), Store(failure)
    await run(socket, store)
    assert socket.closed == code
    assert [message["type"] for message in socket.messages] == [kind]
    assert store.released == [RECORD.id]


async def test_who_comes_back_to_too_many_sessions_is_told_once_and_waits(monkeypatch):
    monkeypatch.setattr(streams, "_QUEUE_INTERVAL_S", 0.01)
    socket, store = Socket(HELLO, leaves=False), Store(SessionGoneError("deleted"))
    answers: list[Any] = [UserFullError("one too many")] * 3 + [2, 2, 1, 0]

    async def admit(*_: Any) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(store, "admit", admit)
    await run(socket, store)
    told = [(m["type"], m.get("code") or m.get("position")) for m in socket.messages]
    assert told[:3] == [("error", "too_many_sessions_of_user"), ("queued", 2), ("queued", 1)]
    assert not answers and socket.closed == CLOSE_ENDED


async def test_a_fault_in_what_a_message_does_is_told(monkeypatch):
    def fail(*_: Any) -> None:
        raise RecursionError("a fault")

    monkeypatch.setattr(HeldControls, "apply", fail)
    socket, store = Socket(HELLO, text('{"type":"control","timestamp":1}'), leaves=False), Store(PENDING)
    await run(socket, store)
    assert socket.closed == CLOSE_MIGRATE


async def test_a_player_who_leaves_is_gone_even_if_a_cancellation_is_lost(monkeypatch):
    monkeypatch.setattr(tasks, "_AGAIN_S", 0.01)
    store = Store(PENDING)

    async def admit(*_: Any) -> int:
        # As `asyncio.wait_for` does where its result comes in the same moment.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(store, "admit", admit)
    async with asyncio.timeout(30):
        await run(Socket(HELLO), store)
    assert store.released == [RECORD.id]


@pytest.mark.parametrize(
    "messages, code",
    [
        ([], CLOSE_WRONG_TOKEN),
        ([text('{"type":"ping","timestamp":1}')] * 3, CLOSE_WRONG_TOKEN),
        ([text("nonsense")] * 3, CLOSE_WRONG_TOKEN),
        ([text("nonsense")] * 30, CLOSE_TOO_MANY_MESSAGES),
        ([text('{"type":"control","timestamp":1}'), HELLO], CLOSE_WRONG_TOKEN),
    ],
)
async def test_whoever_does_not_say_hello_is_sent_away(messages, code):
    socket = Socket(*messages, leaves=False)
    async with asyncio.timeout(30):
        await run(socket, Store(RuntimeError("nobody gets here")), hello_timeout_s=0.05)
    assert socket.closed == code
