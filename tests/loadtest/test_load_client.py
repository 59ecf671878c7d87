"""The client of `gamegen load` before a server that drops, moves and ends its sessions."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
import websockets

from deployments.stream import socket_connection
from deployments.stream.wire import FrameHeader
from loadtest.players.key_tracks import load_tracks
from loadtest.players.play_record import PlayerStay
from loadtest.players.socket_player import FINAL_CLOSE_CODES, Server, SocketPlayer


def test_close_codes_are_those_of_the_server():
    codes = {getattr(socket_connection, name) for name in dir(socket_connection) if name.startswith("CLOSE_")}
    # After these two it comes back.
    assert (
        codes - {socket_connection.CLOSE_MIGRATE, socket_connection.CLOSE_TOO_MANY_MESSAGES}
        == FINAL_CLOSE_CODES
    )


class FakeServer:
    """A stream that does as a script says: one entry for each socket, then frames until the player goes."""

    def __init__(self, *script: object) -> None:
        self.script = list(script)
        self.firsts: list[dict[str, object]] = []

    async def play(
        self, *, token: str | None = None, seconds: float = 60.0, **settings: object
    ) -> PlayerStay:
        stop = asyncio.Event()
        async with websockets.serve(self._answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            session = {"id": "s"} | ({"resume_token": token} if token else {})
            player = SocketPlayer(Server(f"http://127.0.0.1:{port}"), session, load_tracks()[0], 0, settings)
            playing = asyncio.create_task(player.play(time.monotonic() + seconds, stop))
            while not playing.done() and player.num_frames < 8:
                await asyncio.sleep(0.01)
            stop.set()
            return await playing

    async def _answer(self, socket: websockets.ServerConnection) -> None:
        # Only after the player said something, so that what it says first is known.
        self.firsts.append(json.loads(await socket.recv()))
        await socket.send(json.dumps({"type": "welcome"}))
        step = self.script.pop(0) if self.script else None
        if isinstance(step, int):
            await socket.close(step, "as the script says")
        elif step:
            await socket.send(json.dumps(step))
            if step == {"type": "migrate"}:
                await socket.wait_closed()
                return
        for number in range(8):
            await socket.send(
                FrameHeader(
                    frame=0,
                    sequence=number,
                    chunk=number,
                    control_timestamp=None,
                    step_ms=1.0,
                    decode_ms=1.0,
                    wait_ms=1.0,
                    due_ms=0.0,
                ).pack()
            )
        await socket.wait_closed()


async def test_a_socket_that_drops_is_opened_again():
    played = await FakeServer(1011).play()
    assert (played.reconnects, played.migrations, played.lost) == (1, 0, None)
    assert len(played.frames) == 8 and set(played.frames["socket"]) == {1 + 1}


async def test_a_player_who_is_sent_elsewhere_goes_there():
    played = await FakeServer({"type": "migrate"}).play()
    assert (played.reconnects, played.migrations, played.lost) == (0, 1, None)
    assert len(played.frames) == 8


async def test_a_slower_world_is_asked_for_on_each_socket():
    server = FakeServer(1011)
    await server.play(fps=12)
    assert server.firsts == 2 * [{"type": "settings", "fps": 12}]


async def test_waiting_for_a_place_and_goodbyes_are_counted():
    assert (await FakeServer({"type": "queued", "position": 3}).play()).queued == 1
    assert (await FakeServer({"type": "bye"}).play()).goodbyes == 1


@pytest.mark.parametrize("code", sorted(FINAL_CLOSE_CODES))
async def test_a_session_that_ended_is_lost(code):
    played = await FakeServer(code).play()
    assert played.lost == f"{code} as the script says" and not len(played.frames)


async def test_a_session_that_nobody_answers_for_is_lost(monkeypatch):
    monkeypatch.setattr("loadtest.players.socket_player.GIVE_UP_S", 0.0)
    player = SocketPlayer(Server("http://127.0.0.1:9"), {"id": "s"}, load_tracks()[0], 0)
    played = await player.play(time.monotonic() + 60, asyncio.Event())
    assert played.lost and played.lost.startswith("not reached")


async def test_a_token_is_shown_first_on_every_socket_and_only_if_there_is_one():
    server = FakeServer(1011)
    await server.play(token="abc")
    assert server.firsts == 2 * [{"type": "hello", "token": "abc", "protocol": 1}]
    server = FakeServer()
    await server.play()
    assert server.firsts[0]["type"] == "control"


async def test_who_knows_several_servers_tries_the_next_when_one_is_gone():
    server, stop = FakeServer(), asyncio.Event()
    async with websockets.serve(server._answer, "127.0.0.1", 0) as listening:
        there = Server(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        gone = Server("http://127.0.0.1:9")
        player = SocketPlayer(gone, {"id": "s"}, load_tracks()[0], 0, others=[gone, there])
        playing = asyncio.create_task(player.play(time.monotonic() + 60, stop))
        while not playing.done() and player.num_frames < 8:
            await asyncio.sleep(0.01)
        stop.set()
        played = await playing
    assert len(played.frames) == 8 and played.lost is None
