"""The proxy's sockets on a server of their own: no compression, no large messages, nobody who never reads."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket as sockets
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
import websockets
from websockets.frames import Opcode

from deployments.ingress import proxy
from deployments.ingress.lost_replica import LostReplicaMiddleware
from deployments.ingress.proxy import StreamProtocol
from deployments.limits import MAX_SOCKET_MESSAGE_BYTES
from deployments.settings import IngressSettings
from tests.serving import PATIENCE_S


@contextlib.asynccontextmanager
async def serving(app, **options) -> AsyncIterator[str]:
    """Runs an ASGI application as Serve's proxy would."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws=StreamProtocol, **options)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await running


async def echo(scope, receive, send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def test_it_takes_the_place_of_uvicorn_s_own(monkeypatch):
    monkeypatch.setitem(proxy.server.WS_PROTOCOLS, "auto", "elsewhere")
    assert [middleware.cls for middleware in proxy.configure()] == [LostReplicaMiddleware]
    config = uvicorn.Config(echo, log_config=None)
    config.load()
    assert config.ws_protocol_class is StreamProtocol


async def test_compression_is_declined_and_a_bomb_does_not_go_off():
    async with serving(echo) as address:
        async with websockets.connect(address) as socket:
            assert "permessage-deflate" in socket.request.headers["Sec-WebSocket-Extensions"]
            assert "Sec-WebSocket-Extensions" not in socket.response.headers
            await socket.send(b"a frame" * 100)
            assert await socket.recv() == b"a frame" * 100
        async with websockets.connect(address) as socket:
            # A frame that says that it is compressed.
            socket.protocol.writes.append(bytes([0x80 | 0x40 | Opcode.BINARY, 0x80, 0, 0, 0, 0]))
            socket.send_data()
            await socket.wait_closed()
            assert socket.close_code == 1002


async def test_a_message_over_the_limit_closes_the_socket():
    largest = "x" * MAX_SOCKET_MESSAGE_BYTES
    async with serving(echo) as address, websockets.connect(address) as socket:
        await socket.send(largest)
        assert await socket.recv() == largest
        await socket.send(iter(["x" * 1024] * (MAX_SOCKET_MESSAGE_BYTES // 1024) + ["x"]))
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1009
    with pytest.raises(ValueError, match="the proxy takes at most"):
        IngressSettings(max_message_bytes=MAX_SOCKET_MESSAGE_BYTES + 1)


async def test_a_client_that_never_reads_is_cut_off(monkeypatch):
    sent, ended = 0, asyncio.Event()

    async def flood(scope, receive, send) -> None:
        nonlocal sent
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(65536)})
                sent += 1
        finally:
            ended.set()

    monkeypatch.setattr(StreamProtocol, "keepalive_timeout", quick(StreamProtocol.keepalive_timeout))
    async with serving(flood, ws_ping_interval=0.2, ws_ping_timeout=0.2) as address:
        host, port = address.removeprefix("ws://").split(":")
        client = sockets.create_connection((host, int(port)))
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        client.sendall(f"{head}Sec-WebSocket-Version: 13\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
        assert sent
        client.close()


def quick(timed_out):
    """The same with a shorter time to close in."""

    def keepalive_timeout(self) -> None:
        self.close_timeout = 0.1
        timed_out(self)

    return keepalive_timeout


async def test_a_request_whose_replica_died_may_be_sent_again():
    async def dies(scope, receive, send) -> None:
        if scope["path"] == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    async with (
        serving(LostReplicaMiddleware(dies)) as url,
        httpx.AsyncClient(base_url=url.replace("ws", "http")) as client,
    ):
        answer = await client.post("/v1/videos")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["code"] == answer.json()["error"]["code"] == "interrupted"
        # What has begun is broken off, and nothing is added to it.
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/begun")
