"""How a socket ends before anything is played, with a store and a client that are not there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from typing import Any, cast

import numpy as np
import pytest

from deployments import background
from deployments.sessions.admission_queue import AdmissionQueue
from deployments.sessions.capacity_registry import PlayCapacity
from deployments.sessions.session_record import SessionRecord
from deployments.sessions.store import SessionStore
from deployments.sessions.store_errors import SessionGoneError, SessionMovedError, UserFullError
from deployments.settings import ServeSettings
from deployments.stream import session_stream as streams
from deployments.stream.context import PlayContext, ReplicaClients
from deployments.stream.input_state import InputState
from deployments.stream.session_stream import SessionStream
from deployments.stream.socket_connection import (
    CLOSE_ENDED,
    CLOSE_MIGRATE,
    CLOSE_TAKEN_OVER,
    CLOSE_TOO_MANY_MESSAGES,
    CLOSE_WRONG_TOKEN,
    Connection,
)
from gamegen.sessions.log import VideoPrompt, WorldSpec
from tests.deployments.stream.fake_socket import Socket, text

RECORD, TOKEN = SessionRecord.new(
    "one", WorldSpec(model="nano", prompt="desert", perspective="first", seed=0, width=32, height=32)
)
HELLO = text(json.dumps({"type": "hello", "token": TOKEN}))
PENDING = RuntimeError("it never answers")


class Store:
    """Has one session, which is lost as soon as it is claimed."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure
        self.released: list[str] = []

    async def summary(self, session_id: str) -> SessionRecord:
        return RECORD

    async def claim(self, session_id: str) -> SessionRecord:
        return RECORD

    async def commit(self, *_: Any, **__: Any) -> None:
        if self._failure is PENDING:
            await asyncio.Event().wait()
        raise self._failure

    async def release(self, record: SessionRecord) -> None:
        self.released.append(record.id)


class Queue:
    """Admits everybody at once."""

    async def admit(self, session_id: str, capacity: int) -> int:
        return 0


class Capacity:
    async def current(self) -> int:
        return 1


class NoReplicas:
    """Replica clients of a stream that ends before it needs any."""

    async def encode_video(self, prompt: VideoPrompt) -> np.ndarray:
        raise AssertionError("nothing was played")


async def run(
    socket: Socket, store: Store, queue: Queue | None = None, hello_timeout_s: float = 10.0
) -> None:
    settings = ServeSettings()
    ingress = dataclasses.replace(settings.ingress, hello_timeout_s=hello_timeout_s)
    settings = dataclasses.replace(settings, ingress=ingress)
    context = PlayContext(
        settings=settings,
        store=cast(SessionStore, store),
        queue=cast(AdmissionQueue, queue or Queue()),
        capacity=cast(PlayCapacity, Capacity()),
        replicas=cast(ReplicaClients, NoReplicas()),
    )
    await SessionStream(RECORD.id, Connection(cast(Any, socket), ingress), context).run()


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

    queue = Queue()
    monkeypatch.setattr(queue, "admit", admit)
    await run(socket, store, queue)
    told = [(m["type"], m.get("code") or m.get("position")) for m in socket.messages]
    assert told[:3] == [("error", "too_many_sessions_of_user"), ("queued", 2), ("queued", 1)]
    assert not answers and socket.closed == CLOSE_ENDED


async def test_a_fault_in_what_a_message_does_is_told(monkeypatch):
    def fail(*_: Any) -> None:
        raise RecursionError("a fault")

    monkeypatch.setattr(InputState, "apply", fail)
    socket, store = Socket(HELLO, text('{"type":"control","timestamp":1}'), leaves=False), Store(PENDING)
    await run(socket, store)
    assert socket.closed == CLOSE_MIGRATE


async def test_a_player_who_leaves_is_gone_even_if_a_cancellation_is_lost(monkeypatch):
    monkeypatch.setattr(background, "_CANCEL_AGAIN_S", 0.01)
    store = Store(PENDING)

    async def admit(*_: Any) -> int:
        # As `asyncio.wait_for` does where its result comes in the same moment.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return 0

    queue = Queue()
    monkeypatch.setattr(queue, "admit", admit)
    async with asyncio.timeout(30):
        await run(Socket(HELLO), store, queue)
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
