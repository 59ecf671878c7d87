"""Nonsense, floods and slow sockets against the running application while somebody else plays on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import socket as sockets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import ray
import websockets
from websockets.frames import Close, Frame, Opcode

from deployments.stream.client_messages import MAX_SEQUENCE
from loadtest.load.server_memory import listening_pid, processes, server_processes
from tests.deployments.stream.nonsense import nonsense
from tests.serving import PATIENCE_S, streaming

MAX_GROWTH_FILES = 20
"""Open files of a process from the first storm to the second: each of a storm's sockets would be one."""
GONE = (4404, 4410)


def replicas() -> dict[str, str]:
    """All actors of the application and its proxy, with their ids; one that was restarted has another name or id."""
    names = ray.util.list_named_actors(all_namespaces=True)
    ours = [n for n in names if n["name"].startswith(("SERVE_REPLICA::gamegen#", "SERVE_PROXY_ACTOR"))]
    return {n["name"]: ray.get_actor(n["name"], n["namespace"])._actor_id.hex() for n in ours}


def pids(address: str) -> dict[str, int]:
    """The processes of the ingress and the proxy."""
    found = server_processes(listening_pid(urlsplit(address).port), processes())
    names = {process.name: process.pid for process in found}
    return {part: next(pid for name, pid in names.items() if part in name) for part in ("Ingress", "Proxy")}


def complaints() -> list[str]:
    """What the ingress has logged as errors, and the traces of its requests that failed."""
    (replica,) = (name.rpartition("#")[2] for name in replicas() if "#Ingress#" in name)
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    lines = (folder / "serve" / f"replica_gamegen_Ingress_{replica}.log").read_text().splitlines()
    return [line for line in lines if not line.startswith("WARNING")]


class Bystander:
    """Somebody who plays while the storm goes on."""

    def __init__(self, player: Any) -> None:
        self.num_frames = 0
        self.gaps: list[tuple[int, int]] = []
        self._player = player

    async def play(self) -> None:
        newest = None
        while True:
            sequence = (await self._player.frame()).header.sequence
            if newest is not None and sequence != newest + 1:
                self.gaps.append((newest, sequence))
            newest = sequence
            self.num_frames += 1

    async def goes_on(self, task: asyncio.Task) -> None:
        """Waits for more frames."""
        until = self.num_frames + 12
        async with asyncio.timeout(PATIENCE_S):
            while self.num_frames < until and not task.done():
                await asyncio.sleep(0.02)
        assert not task.done(), (task, self._player.messages, complaints())


class Storm:
    """Sockets that do what they should not, on sessions of their own."""

    def __init__(self, address: str, begin: Callable[..., dict[str, Any]], seed: int) -> None:
        self.num_sent = 0
        self.codes: set[int | None] = set()
        self._url = address.replace("http", "ws")
        self._host = urlsplit(address)
        self._begin = begin
        self._seed = seed
        self._turn = asyncio.Lock()
        self.session = begin(seed=1)
        """The one that most of the sockets play; it may be ended by what they send."""
        self._slow = begin(seed=2)

    async def rage(self, num_messages: int) -> None:
        """Sends them all, over seven sockets at a time; the slow ones last as long as the others."""
        share = num_messages // 7 + 1
        slow = [
            asyncio.create_task(slow_one(self._host, self._slow, parts, pause_s))
            for parts, pause_s in ((slow_request, 0.3), (slow_hello, 0.3), (silence, 0), (never_reads, 0.05))
            for _ in range(3)
        ]
        await asyncio.gather(
            self._chat(True, nonsense(self._seed + 1, share), 1),
            self._chat(True, nonsense(self._seed + 2, share), 5),
            self._chat(True, nonsense(self._seed + 3, share), 50),
            self._chat(True, (json.dumps(words(i)) for i in range(share)), 100),
            self._chat(True, itertools.islice(itertools.cycle(out_of_order()), share), 10),
            self._chat(False, nonsense(self._seed + 4, share), 5),
            self._chat(False, nonsense(self._seed + 5, share), 5),
        )
        assert all(not task.done() or not task.exception() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    async def _chat(self, says_hello: bool, messages: Iterator[str | bytes], at_once: int) -> None:
        """Sends all messages, `at_once` before it lets others go on; comes back when it is sent away."""
        left = next(messages, None)
        while left is not None:
            session = self.session
            url = self._url + session["stream_url"]
            async with websockets.connect(url, open_timeout=PATIENCE_S, ping_timeout=None) as socket:
                reading = asyncio.create_task(drain(socket))
                with contextlib.suppress(websockets.ConnectionClosed):
                    if says_hello:
                        await socket.send(hello(session).decode())
                    while left is not None:
                        for message in itertools.chain([left], itertools.islice(messages, at_once - 1)):
                            self.num_sent += 1
                            await socket.send(message)
                        left = next(messages, None)
                        await asyncio.wait({reading}, timeout=0.005)
                if left is None:
                    await socket.close()
                await reading
            self.codes.add(socket.close_code)
            if socket.close_code in GONE:
                await self._renew(session)

    async def _renew(self, session: dict[str, Any]) -> None:
        async with self._turn:
            if session is self.session:
                self.session = await asyncio.to_thread(self._begin, seed=1)


def words(number: int) -> dict[str, Any]:
    return {
        "type": "control",
        "timestamp": number,
        "instruction": {"text": f"make it rain {number % 50} times"},
    }


def out_of_order() -> list[str | bytes]:
    """Well-formed, but at the wrong time or of another world."""
    messages = [
        {"type": "hello", "token": "guess"},
        {"type": "seen", "sequence": MAX_SEQUENCE},
        {"type": "seen", "sequence": 0},
        {"type": "seen", "sequence": 10**6},
        {"type": "control", "timestamp": -1e308, "keyboard": {"keys": ["w"] * 32, "state": False}},
        {"type": "settings", "fps": 4, "every": 4},
        {"type": "settings", "fps": 24, "every": 1},
        {"type": "settings", "format": "fmp4"},
        {"type": "settings", "format": "jpeg", "every": 2},
        {"type": "settings"},
        {"type": "ping", "timestamp": 1e308},
    ]
    return [*map(json.dumps, messages), bytes(300_000)]


async def drain(socket: websockets.ClientConnection) -> None:
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            await socket.recv()


def handshake(session: dict[str, Any]) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ["Host: x", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}"]
    return "\r\n".join(
        [f"GET {session['stream_url']} HTTP/1.1", *lines, "Sec-WebSocket-Version: 13", "", ""]
    ).encode()


def masked(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def hello(session: dict[str, Any]) -> bytes:
    return json.dumps({"type": "hello", "token": session["resume_token"]}).encode()


def slow_request(session: dict[str, Any]) -> Iterator[bytes]:
    """A request a byte at a time."""
    yield from (bytes([byte]) for byte in handshake(session))


def slow_hello(session: dict[str, Any]) -> Iterator[bytes]:
    """A hello in fragments of a byte, pings between them."""
    yield handshake(session)
    for i, byte in enumerate(hello(session)):
        yield masked(Opcode.CONT if i else Opcode.TEXT, bytes([byte]), fin=False) + masked(Opcode.PING, b"")


def silence(session: dict[str, Any]) -> Iterator[bytes]:
    """Says nothing at all."""
    yield handshake(session)


def never_reads(session: dict[str, Any]) -> Iterator[bytes]:
    """Asks for all it can get and reads none of it."""
    yield handshake(session) + masked(Opcode.TEXT, hello(session))
    for message in itertools.cycle(
        ({"type": "seen", "sequence": MAX_SEQUENCE}, {"type": "ping", "timestamp": 1})
    ):
        yield masked(Opcode.TEXT, json.dumps(message).encode())


async def slow_one(
    host: Any, session: dict[str, Any], parts: Callable[[dict[str, Any]], Iterator[bytes]], pause_s: float
) -> None:
    """Sends what there is with a pause after each part, then waits; ends when it is cancelled."""
    loop = asyncio.get_running_loop()
    with sockets.socket() as socket:
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        socket.setblocking(False)
        await loop.sock_connect(socket, (host.hostname, host.port))
        with contextlib.suppress(ConnectionError):
            for part in parts(session):
                await loop.sock_sendall(socket, part)
                await asyncio.sleep(pause_s)
        await asyncio.Event().wait()


async def broken_text(address: str, session: dict[str, Any]) -> Close:
    """What a socket is told whose text is not UTF-8."""
    async with websockets.connect(address.replace("http", "ws") + session["stream_url"]) as socket:
        await socket.send(b'{"type": "\xff\xfe"}', text=True)
        await socket.wait_closed()
        return socket.protocol.close_rcvd


async def status_until(client: Any, is_so: Callable[[dict[str, int]], bool]) -> None:
    """Waits for the sessions that the status tells."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_so(counts := (await asyncio.to_thread(client.get, "/v1/status")).json()["sessions"]):
        assert time.monotonic() < give_up_at, counts
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("messages_a_storm", [1000, pytest.param(5000, marks=pytest.mark.long)])
async def test_a_storm_leaves_the_others_and_the_server_as_they_were(
    address, begin, client, messages_a_storm
):
    """The short storms send every kind of message too, over as many sockets; the long ones, more of each."""
    before, running = replicas(), pids(address)
    num_complaints = len(complaints())
    async with streaming(address, begin(seed=9)) as player:
        await player.send({"type": "settings", "fps": 6})
        bystander = Bystander(player)
        playing = asyncio.create_task(bystander.play())
        await bystander.goes_on(playing)
        num_files: list[dict[str, int]] = []
        storm = Storm(address, begin, seed=0)
        for _ in range(2):
            await storm.rage(messages_a_storm)
            await status_until(client, lambda counts: counts["here"] == 1)
            num_files.append({name: psutil.Process(pid).num_fds() for name, pid in running.items()})
        assert storm.num_sent >= 2 * messages_a_storm
        # Sent away, refused, too large.
        assert {4429, 4401, 1009} <= storm.codes
        assert (await broken_text(address, storm.session)).code == 1007
        await bystander.goes_on(playing)
        playing.cancel()
        assert bystander.gaps == []
        assert [message["type"] for message in player.messages] == ["welcome", "settings"]
    assert (replicas(), pids(address)) == (before, running)
    assert complaints()[num_complaints:] == []
    for name in running:
        assert num_files[1][name] - num_files[0][name] < MAX_GROWTH_FILES, (name, num_files)
    for session in client.get("/v1/sessions").json()["sessions"]:
        client.delete(f"/v1/sessions/{session['id']}")
    await status_until(client, lambda c: c["here"] == c["live"] == c["playing"] == c["queued"] == 0)
    async with streaming(address, begin(seed=3)) as player:
        assert [frame.header.sequence for frame in await player.frames(8)] == list(range(8))
