"""A socket's messages without a server: what is let in, what is answered, who is sent away."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from fastapi import WebSocket

from deployments.settings import IngressSettings
from deployments.stream import socket_connection
from deployments.stream.client_messages import MAX_SEQUENCE, parse_client_message
from deployments.stream.socket_connection import CLOSE_TOO_MANY_MESSAGES, Connection
from deployments.stream.wire import (
    FRAGMENT_MAGIC,
    INIT_MAGIC,
    FrameHeader,
    unpack_fragment,
    unpack_frame,
    unpack_init,
)
from gamegen.media.fmp4 import encode_chunk, split_init
from tests.deployments.stream.fake_socket import Socket, text
from tests.deployments.stream.nonsense import nonsense


async def heard(socket: Socket, **settings: Any) -> list:
    """What a connection makes of a client's messages."""
    return [message async for message in Connection(socket, IngressSettings(**settings)).messages()]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"control","timestamp":NaN}',
        '{"type":"control","timestamp":Infinity}',
        '{"type":"control","timestamp":1,"camera":{"yaw_deg":NaN}}',
        '{"type":"control","timestamp":1,"camera":{"pitch_deg":"nan"}}',
        '{"type":"control","timestamp":1,"instruction":{"text":"x","blend_s":NaN}}',
        '{"type":"control","timestamp":' + "9" * 400 + "}",
        '{"type":"seen","sequence":' + "9" * 5000 + "}",
        '{"type":"seen","sequence":' + "9" * 4000 + "}",
        f'{{"type":"seen","sequence":{MAX_SEQUENCE + 1}}}',
        '{"type":"seen","sequence":-1}',
        '{"type":"seen","sequence":1e300}',
        '{"type":"hello","token":"x","protocol":' + "9" * 4000 + "}",
        '{"type":"hello","token":"\\ud800"}',
        '{"type":"control","timestamp":1,"instruction":{"text":"\\udfff"}}',
        "[" * 8000,
        '{"a":' * 2000 + "1" + "}" * 2000,
        '{"type":"' + "x" * 8000 + '"}',
        '{"type":"control","timestamp":1,"' + "x" * 8000 + '":1}',
        '{"type":"control","timestamp":1,"keyboard":{"keys":["' + "\\u0000" * 1000 + '"],"state":true}}',
        '{"type":"settings","format":"FMP4"}',
        '{"type":"settings","format":["fmp4"]}',
        '{"type":{}}',
        "null",
        "",
    ],
    ids=lambda message: message[:40],
)
async def test_nonsense_is_answered_in_short_and_nothing_else_happens(message):
    socket = Socket(text(message), text('{"type":"control","timestamp":1}'))
    assert [m.type for m in await heard(socket)] == ["control"]
    (answer,) = socket.messages
    assert (answer["type"], answer["code"], answer["fatal"]) == ("error", "invalid_message", False)
    assert 0 < len(answer["message"]) <= 410
    assert socket.closed is None


async def test_a_message_of_neither_kind_is_answered():
    """ASGI servers may name both kinds and leave either empty."""
    socket = Socket({"type": "websocket.receive", "text": None, "bytes": None}, {"type": "websocket.receive"})
    assert await heard(socket) == []
    assert ["22 bytes, got 0" in answer["message"] for answer in socket.messages] == [True, True]


async def test_ten_thousand_messages_of_nonsense_are_each_understood_or_answered(monkeypatch):
    monkeypatch.setattr(socket_connection, "_MAX_ERRORS_PER_S", 10**9)
    messages = list(nonsense(seed=7, count=10_000))
    received = [
        text(m) if isinstance(m, str) else {"type": "websocket.receive", "bytes": m} for m in messages
    ]
    socket = Socket(*received)
    understood = await heard(socket, max_messages_per_s=10**9)
    kinds = Counter(message["type"] for message in socket.messages)
    assert socket.closed is None
    assert kinds["error"] > 5000 and kinds["pong"] > 100 and len(understood) > 1000
    # Only `seen` has no answer.
    assert 0 < len(messages) - len(socket.messages) - len(understood) < 1000
    assert max(len(m["message"]) for m in socket.messages if m["type"] == "error") <= 410


class Forgetful(Socket):
    """A client that makes up its messages as it goes, and keeps nothing of what it is sent."""

    def __init__(self, messages: Iterator[str | bytes]) -> None:
        super().__init__()
        self._messages = messages

    async def receive(self) -> dict[str, Any]:
        message = next(self._messages, None)
        if message is None:
            return {"type": "websocket.disconnect"}
        return text(message) if isinstance(message, str) else {"type": "websocket.receive", "bytes": message}

    async def send_json(self, message: dict[str, Any]) -> None:
        return


async def test_nothing_is_kept_of_messages_of_nonsense(monkeypatch):
    monkeypatch.setattr(socket_connection, "_MAX_ERRORS_PER_S", 10**9)
    settings = IngressSettings(max_messages_per_s=10**9)

    async def num_kept(count: int) -> int:
        """Objects that are there after so many messages on one socket, and were not before."""
        connection = Connection(cast(WebSocket, Forgetful(nonsense(seed=7, count=count))), settings)
        gc.collect()
        before = len(gc.get_objects())
        async for _ in connection.messages():
            pass
        gc.collect()
        return len(gc.get_objects()) - before

    # Caches are filled with the first ones.
    await num_kept(2000)
    assert await num_kept(2000) < 200


def test_text_that_is_not_unicode_is_no_message():
    with pytest.raises(ValueError):
        parse_client_message("\ud800", 100)


async def test_too_many_messages_or_errors_send_a_client_away(monkeypatch):
    monkeypatch.setattr(socket_connection.time, "monotonic", lambda: 100.0)
    ping = text('{"type":"ping","timestamp":1}')
    socket = Socket(*[ping] * 12)
    await heard(socket, max_messages_per_s=10)
    assert [m["type"] for m in socket.messages] == ["pong"] * 10 + ["error"]
    assert socket.messages[-1]["fatal"] and socket.closed == CLOSE_TOO_MANY_MESSAGES
    socket = Socket(*[text("nonsense")] * 30)
    await heard(socket)
    assert len(socket.messages) == 20 and socket.closed == CLOSE_TOO_MANY_MESSAGES


async def test_a_socket_does_not_pay_for_the_one_before_it(monkeypatch):
    """A connection is counted by itself: a new object may have the address of one that is gone."""
    monkeypatch.setattr(socket_connection.time, "monotonic", lambda: 100.0)
    ping = text('{"type":"ping","timestamp":1}')
    for _ in range(20):
        socket = Socket(*[ping] * 6)
        await heard(socket, max_messages_per_s=10)
        assert socket.closed is None


class Client(Socket):
    """A client that speaks when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.say: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive(self) -> dict[str, Any]:
        return await self.say.get()


def header(chunk: int) -> FrameHeader:
    return FrameHeader(
        frame=0,
        sequence=4 * chunk,
        chunk=chunk,
        control_timestamp=None,
        step_ms=1.0,
        decode_ms=1.0,
        wait_ms=0.0,
        due_ms=0.0,
    )


def seen(sequence: int) -> dict[str, Any]:
    return text(f'{{"type":"seen","sequence":{sequence}}}')


FILES = [encode_chunk(np.full((4, 32, 32, 3), 60 * number, np.uint8), 4 * number) for number in range(4)]


async def test_an_init_segment_goes_before_the_first_fragment_and_when_it_is_asked_for():
    socket = Socket()
    connection = Connection(socket, IngressSettings())  # type: ignore[arg-type]
    for number, file in enumerate(FILES):
        if number == 2:
            connection.repeat_init()
        assert await connection.send_fragment(header(number), 41.5, file) == len(split_init(file)[1])
    magics = [message[:2] for message in socket.binary]
    assert magics == [INIT_MAGIC, *[FRAGMENT_MAGIC] * 2, INIT_MAGIC, *[FRAGMENT_MAGIC] * 2]
    init, fragment = split_init(FILES[0])
    assert unpack_init(socket.binary[0]) == init
    headers, content = unpack_fragment(socket.binary[1])
    assert content == fragment and [h.sequence for h in headers] == [0, 1, 2, 3]
    # Another size has another one.
    other = encode_chunk(np.zeros((4, 48, 64, 3), np.uint8), 16)
    await connection.send_fragment(header(4), 41.5, other)
    assert unpack_init(socket.binary[-2]) == split_init(other)[0]


async def test_frames_of_a_fragment_are_dropped_together_until_they_are_seen():
    socket = Socket(seen(3), leaves=False)
    connection = Connection(socket, IngressSettings(max_unacknowledged_frames=10))  # type: ignore[arg-type]

    async def sent(number: int) -> bool:
        return bool(await connection.send_fragment(header(number), 41.5, FILES[number]))

    assert [await sent(number) for number in range(4)] == [True, True, False, False]
    assert len(socket.binary) == 3
    listening = asyncio.create_task(anext(connection.messages()))
    await asyncio.sleep(0)
    # Four of eight are seen, and six more may be on their way: one fragment.
    assert [await sent(2), await sent(3)] == [True, False]
    # Whoever is behind gets several frames in a row or none.
    assert [await connection.send_frame(header(number), b"jpeg") for number in range(3)] == [0, 0, 0]
    listening.cancel()


@pytest.mark.parametrize("acknowledges", [lambda s: s % 6 == 0, lambda s: s % 4 == 3], ids=["sixth", "last"])
@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("seed", range(5))
async def test_frames_come_again_when_a_slow_client_has_caught_up(acknowledges, every, seed):
    """However many were dropped between the few frames that it acknowledges."""
    dice, socket = random.Random(seed), Client()
    connection = Connection(socket, IngressSettings(max_messages_per_s=10**9))  # type: ignore[arg-type]
    listening = asyncio.create_task(anext(connection.messages()))
    num_read = 0
    sequence = 0
    for _ in range(60):
        # Away for a while, then it reads some of what came, then all of it.
        for part in (0, dice.random(), 1):
            for _ in range(dice.randrange(1, 80)):
                sequence += every
                await connection.send_frame(
                    FrameHeader(
                        frame=0,
                        sequence=sequence,
                        chunk=0,
                        control_timestamp=None,
                        step_ms=1.0,
                        decode_ms=1.0,
                        wait_ms=0.0,
                        due_ms=0.0,
                    ),
                    b"jpeg",
                )
            until = num_read + round(part * (len(socket.binary) - num_read))
            for message in socket.binary[num_read:until]:
                came = unpack_frame(message)[0].sequence
                if acknowledges(came):
                    socket.say.put_nowait(seen(came))
            num_read = until
            while not socket.say.empty():
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        sequence += every
        assert await connection.send_frame(
            FrameHeader(
                frame=0,
                sequence=sequence,
                chunk=0,
                control_timestamp=None,
                step_ms=1.0,
                decode_ms=1.0,
                wait_ms=0.0,
                due_ms=0.0,
            ),
            b"jpeg",
        )
        assert len(socket.binary) - num_read <= 48
    listening.cancel()


async def test_whoever_may_have_fewer_frames_on_their_way_than_a_fragment_has_gets_one_at_a_time():
    socket = Socket(seen(3), leaves=False)
    connection = Connection(socket, IngressSettings(max_unacknowledged_frames=2))  # type: ignore[arg-type]
    assert await connection.send_fragment(header(0), 41.5, FILES[0])
    assert not await connection.send_fragment(header(1), 41.5, FILES[1])
    listening = asyncio.create_task(anext(connection.messages()))
    await asyncio.sleep(0)
    assert await connection.send_fragment(header(1), 41.5, FILES[1])
    listening.cancel()


async def test_only_who_was_sent_something_is_silent():
    seen = text('{"type":"seen","sequence":0}')
    quiet = Connection(Socket(leaves=False), IngressSettings())  # type: ignore[arg-type]
    assert [quiet.count_silence(1.0) for _ in range(3)] == [0.0] * 3
    await quiet.send_frame(header(0), b"jpeg")
    assert [quiet.count_silence(1.0) for _ in range(3)] == [1.0, 2.0, 3.0]
    answers = Connection(Socket(seen), IngressSettings())  # type: ignore[arg-type]
    await answers.send_frame(header(0), b"jpeg")
    assert answers.count_silence(1.0) == 1.0
    assert [message async for message in answers.messages()] == []
    assert answers.count_silence(1.0) == 0.0
    await answers.send_frame(header(1), b"jpeg")
    assert answers.count_silence(1.0) == 1.0
