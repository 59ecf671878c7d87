"""The stream over a real Serve application: frames, controls, words, takeover, loss and return."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
import ray
import websockets

from deployments.stream.wire import BinaryControl
from tests.serving import StreamClient, streaming


async def test_frames_come_in_order_with_their_header(address, begin):
    session = begin(seed=1)
    async with streaming(address, session) as player:
        frames = await player.frames(12)
        assert (await player.message("welcome"))["id"] == session["id"]
    assert [f.header.sequence for f in frames] == list(range(12))
    assert [f.header.chunk for f in frames] == [i // 4 for i in range(12)]
    assert [f.header.frame for f in frames] == [i % 4 for i in range(12)]
    assert frames[0].header.control_timestamp is None
    assert all(f.header.step_ms > 0 and f.header.decode_ms > 0 for f in frames)
    # The first frame of a chunk does not wait for the others to be decoded.
    assert frames[0].header.decode_ms < frames[1].header.decode_ms == frames[3].header.decode_ms
    assert frames[0].pixels.shape == (32, 32, 3)


async def test_a_socket_without_the_proxy_plays_the_same(address, begin, client):
    session = begin(seed=1)
    assert session["direct_stream_url"].startswith("ws://127.0.0.1:")
    async with streaming(address, session, directly=True) as player:
        direct = await player.frames(12)
        assert player.socket.response.headers.get("Sec-WebSocket-Extensions") is None
    async with streaming(address, session) as player:
        assert (await player.frame()).header.sequence >= 12
    other = begin(seed=1)
    async with streaming(address, other) as player:
        for frame, expected in zip(await player.frames(12), direct, strict=True):
            np.testing.assert_array_equal(frame.pixels, expected.pixels)
    assert client.get(session["direct_stream_url"].replace("ws://", "http://")).status_code == 404


async def test_requested_resolution_is_what_is_sent(address, begin):
    session = begin(resolution={"width": 64, "height": 48})
    async with streaming(address, session) as player:
        assert (await player.frame()).pixels.shape == (48, 64, 3)


async def test_control_timestamp_is_echoed_and_keys_change_the_frames(address, begin):
    played = []
    for keys in ([], ["w", "left"]):
        session = begin(seed=2)
        async with streaming(address, session) as player:
            await player.control(1234.5, keyboard={"keys": keys, "state": True}, camera={"yaw_deg": 1})
            while (frame := await player.frame()).header.control_timestamp != 1234.5:
                pass
            while frame.header.chunk < 12:
                frame = await player.frame()
            played.append(frame.pixels.astype(float))
    assert np.abs(played[0] - played[1]).mean() > 0.5


async def pictures_until(player: StreamClient, sequence: int) -> dict[int, np.ndarray]:
    """The next frames by their sequence, up to one that has this sequence or a later one."""
    found: dict[int, np.ndarray] = {}
    while not found or max(found) < sequence:
        frame = await player.frame()
        found[frame.header.sequence] = frame.pixels
    return found


async def test_instruction_is_acknowledged_and_changes_the_frames(address, begin):
    async with streaming(address, begin(seed=3)) as player:
        await player.frames(8)
        await player.control(7.0, instruction={"text": "make it rain", "parameters": {}})
        ack = await player.message("ack")
        assert (ack["instruction"], ack["timestamp"]) == ("make it rain", 7.0)
        # Nothing is put in force in a chunk that was shown already.
        first = 4 * ack["chunk"]
        assert first >= 8
        changed = await pictures_until(player, first + 12)
    async with streaming(address, begin(seed=3)) as player:
        plain = await pictures_until(player, first + 12)
    same = {
        number: np.array_equal(changed[number], plain[number]) for number in changed.keys() & plain.keys()
    }
    assert all(is_same for number, is_same in same.items() if number < first)
    # A chunk that was being drawn when the words came goes without them.
    assert not all(is_same for number, is_same in same.items() if number >= first + 4)


async def test_words_that_come_too_often_or_are_too_many_are_answered_and_play_goes_on(address, begin):
    session = begin(seed=3)
    async with streaming(address, session) as player:
        await player.frame()
        for number in range(12):
            await player.control(number, instruction={"text": "rain " * 290})
        # Two are logged, and of the others two a second at least are looked at.
        codes = {(await player.message("error"))["code"] for _ in range(10)}
        assert "too_many_words" in codes <= {"too_many_instructions", "too_many_words"}
        first = await player.frame()
        assert (await player.frame()).header.sequence > first.header.sequence


@pytest.mark.parametrize(
    "message, says",
    [
        ("{nope", "not valid JSON"),
        ("[]", "should be an object"),
        ('{"type": "dance"}', "dance"),
        ('{"type": "control"}', "timestamp"),
        ('{"type":"control","timestamp":1,"keyboard":{"keys":["x"],"state":true}}', "unknown key 'x'"),
        ('{"type":"control","timestamp":1,"camera":{"yaw_deg":90}}', "less than or equal to 6"),
        ('{"type":"control","timestamp":1,"turn":{"yaw_deg":400}}', "400 degrees and the limit is 360"),
        (
            '{"type":"control","timestamp":1,"instruction":{"text":"' + "very " * 400 + '","parameters":{}}}',
            "the limit is 300",
        ),
        ('{"type":"control","timestamp":1,"instruction":{"text":"x","parameters":{"a":1}}}', "'a'"),
        ('{"type":"seen","sequence":1,"padding":"' + "x" * 9000 + '"}', "the limit is 8192"),
        (b"\x00\x01", "a binary message has 22 bytes, got 2"),
        (b"XX\x01" + bytes(19), "not a control message of version 1"),
    ],
)
async def test_wrong_message_is_answered_and_the_session_survives(address, begin, message, says):
    session = begin()
    async with streaming(address, session) as player:
        first = await player.frame()
        await player.socket.send(message)
        assert says in (await player.message("error"))["message"]
        assert (await player.frame()).header.sequence > first.header.sequence


async def test_a_socket_opens_nothing_without_the_token(address, begin):
    session = begin()

    async def refused(message: dict) -> int:
        async with websockets.connect(address.replace("http", "ws") + session["stream_url"]) as socket:
            await socket.send(json.dumps(message))
            with pytest.raises(websockets.ConnectionClosed) as closed:
                while True:
                    assert isinstance(await socket.recv(), str)
            return closed.value.rcvd.code

    # Side by side: two of them are waited for as long as a hello may take.
    codes = await asyncio.gather(
        refused({"type": "hello", "token": "guess"}),
        refused({"type": "seen", "sequence": 1}),
        refused({"type": "hello", "token": session["resume_token"], "protocol": 9}),
    )
    assert codes == [4401, 4401, 4401]


async def test_binary_controls_do_what_json_ones_do(address, begin):
    seen = []
    for binary in (False, True):
        session = begin(seed=9)
        async with streaming(address, session) as player:
            # Held before the world begins, so from its first chunk on.
            if binary:
                await player.socket.send(
                    BinaryControl(
                        keys=frozenset({"w", "left"}), yaw_deg=1.5, pitch_deg=0, timestamp=77.0
                    ).pack()
                )
            else:
                await player.control(
                    77.0, keyboard={"keys": ["w", "left"], "state": True}, camera={"yaw_deg": 1.5}
                )
            seen.append(await player.frames(24))
    assert all(frame.header.control_timestamp == 77.0 for frames in seen for frame in frames)
    for one, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


async def test_ping_settings_and_bye(address, begin, client):
    session = begin()
    async with streaming(address, session) as player:
        await player.send({"type": "ping", "timestamp": 12.5})
        assert (await player.message("pong"))["timestamp"] == 12.5
        await player.send({"type": "settings", "fps": 12, "every": 2})
        told = {"type": "settings", "fps": 12, "every": 2, "format": "jpeg"}
        assert await player.message("settings") == told
        await player.frames(8)
        assert {frame.header.frame for frame in await player.frames(6)} == {0, 2}
        await player.send({"type": "bye"})
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                await player.socket.recv()
        assert closed.value.rcvd.code == 4410
    assert client.get(f"/v1/sessions/{session['id']}").status_code == 404


async def test_unknown_session_is_told_so(address):
    async with streaming(
        address, {"stream_url": "/v1/sessions/nobody/stream", "resume_token": "x"}
    ) as player:
        error = await player.message("error")
        assert "POST /v1/sessions" in error["message"]
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await player.socket.recv()
        assert closed.value.rcvd.code == 4404


async def test_dropped_socket_resumes_the_same_world(address, begin, client):
    session = begin(seed=4)
    async with streaming(address, session) as player:
        last = (await player.frames(9))[-1]
    async with streaming(address, session) as player:
        resumed = await player.frame()
        assert resumed.header.sequence > last.header.sequence
        assert resumed.header.chunk >= last.header.chunk
        assert (await player.message("welcome"))["id"] == session["id"]
        assert client.get(f"/v1/sessions/{session['id']}").json()["state"] == "playing"


async def test_second_socket_takes_the_session_over(address, begin):
    session = begin()
    async with streaming(address, session) as first:
        await first.frame()
        async with streaming(address, session) as second:
            await second.frame()
            with pytest.raises(websockets.ConnectionClosed) as closed:
                while True:
                    await first.socket.recv()
            assert closed.value.rcvd.code == 4001
            assert "took this session over" in closed.value.rcvd.reason
            await second.frames(4)


async def test_deleted_session_closes_its_socket(address, begin, client):
    session = begin()
    async with streaming(address, session) as player:
        await player.frame()
        assert client.delete(f"/v1/sessions/{session['id']}").status_code == 204
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                await player.socket.recv()
        assert closed.value.rcvd.code == 4410


async def test_client_that_falls_behind_loses_frames_instead_of_filling_memory(address, begin, client):
    session = begin()
    async with streaming(address, session, acknowledges=False) as player:
        first = await player.frame()
        await player.send({"type": "seen", "sequence": first.header.sequence})
        url = f"/v1/sessions/{session['id']}"
        # Nothing is acknowledged any more: the server stops at its limit and counts what it drops.
        while client.get(url).json()["frames_dropped"] < 8:
            newest = await player.frame()
            if newest.header.sequence > 20:
                break
        while client.get(url).json()["frames_dropped"] < 8:
            pass
        await player.send({"type": "seen", "sequence": 10**6})
        sequence = newest.header.sequence
        while (frame := await player.frame()).header.sequence == sequence + 1:
            sequence = frame.header.sequence
        assert frame.header.sequence > sequence + 1


async def test_player_in_a_batch_sees_what_a_lone_one_sees(address, begin):

    async def watch(players: list) -> np.ndarray:
        frames = []
        while len(frames) < 24:
            for i, player in enumerate(players):
                frame = await player.frame()
                if i == 0:
                    frames.append(frame.pixels)
        return np.stack(frames)

    lone = begin(seed=11)
    async with streaming(address, lone) as player:
        expected = await watch([player])
    crowd = [begin(seed=seed) for seed in (11, 12)]
    async with streaming(address, crowd[0]) as one, streaming(address, crowd[1]) as two:
        together = await watch([one, two])
    difference = np.abs(together.astype(float) - expected).mean(axis=(1, 2, 3))
    assert difference.max() < 3


def world_replicas() -> list:
    names = ray.util.list_named_actors(all_namespaces=True)
    worlds = [n for n in names if n["name"].startswith("SERVE_REPLICA::gamegen#World#")]
    return [ray.get_actor(n["name"], namespace=n["namespace"]) for n in worlds]


async def test_stream_continues_when_the_world_replica_dies(address, begin):
    """The same frames come as without the loss: the world is rebuilt from its snapshot and replayed."""
    undisturbed = begin(seed=21)
    async with streaming(address, undisturbed) as player:
        expected = [frame.pixels for frame in await player.frames(48)]
    session = begin(seed=21)
    async with streaming(address, session) as player:
        frames = [frame.pixels for frame in await player.frames(14)]
        for actor in world_replicas():
            ray.kill(actor)
        frames += [frame.pixels for frame in await player.frames(34)]
        states = [m["state"] for m in player.messages if m["type"] == "status"]
    assert states[:2] == ["recovering", "playing"]
    difference = np.abs(np.stack(frames).astype(float) - np.stack(expected)).mean(axis=(1, 2, 3))
    assert difference.max() < 3
