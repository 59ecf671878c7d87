"""Helpers of the serving tests: a stream client, and a running application."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import simplejpeg
import websockets
from PIL import Image

from deployments.settings import ServeSettings, load_settings
from deployments.stores import StoreUrls
from deployments.stream.wire import (
    FRAGMENT_MAGIC,
    INIT_MAGIC,
    FrameHeader,
    unpack_fragment,
    unpack_frame,
    unpack_init,
)

PATIENCE_S = 240.0
"""Time that a test waits for an event before it fails; no test passes or fails by being slow or quick."""


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tiny_settings(model: Path) -> ServeSettings:
    """The local settings with a model of random weights and limits that a test can reach."""
    settings = load_settings()
    return dataclasses.replace(
        settings,
        model=str(model),
        ingress=dataclasses.replace(
            settings.ingress,
            max_sessions=3,
            max_queued=0,
            max_sessions_per_user=2,
            user_header="X-User",
            max_message_bytes=8192,
            max_logged_words_bytes=4096,
        ),
        # Tests share the worlds: a replica offers all of its slots however late chunks are.
        world=dataclasses.replace(
            settings.world, threads=1, slots=3, snapshot_every_chunks=5, most_late_share=1
        ),
        generator=dataclasses.replace(settings.generator, threads=1),
    )


class Application:
    """The application on the Serve instance that is up: one at a time, kept as long as the same one is asked for."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._running: tuple[ServeSettings, StoreUrls] | None = None

    def serve(self, settings: ServeSettings, stores: StoreUrls) -> str:
        """Runs it with these settings unless it does already; returns its address."""
        from ray import serve

        from deployments.app import NAME, build_app

        if self._running != (settings, stores):
            self.stop()
            serve.run(build_app(settings, stores), name=NAME, route_prefix="/")
            self._running = settings, stores
        return self._address

    def stop(self) -> None:
        """Ends it, if one runs."""
        from ray import serve

        from deployments.app import NAME

        if self._running:
            serve.delete(NAME)
        self._running = None


def end_sessions(address: str) -> None:
    """Ends every session of the application."""
    with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        for session in client.get("/v1/sessions", params={"limit": 100}).json()["sessions"]:
            client.delete(f"/v1/sessions/{session['id']}")


def png(width: int, height: int, colour: tuple[int, int, int] = (200, 90, 20)) -> bytes:
    """A PNG file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame as a client received it."""

    header: FrameHeader
    pixels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Fragment:
    """A chunk as a client received it: four headers, and an MP4 file of the newest init segment and the fragment."""

    headers: list[FrameHeader]
    file: bytes


class StreamClient:
    """A client of one session's socket."""

    def __init__(self, socket: Any, acknowledges: bool = True) -> None:
        self.socket = socket
        self.acknowledges = acknowledges
        self.messages: list[dict[str, Any]] = []
        self.inits: list[bytes] = []

    async def send(self, message: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(message))

    async def control(self, timestamp: float = 1.0, **parts: Any) -> None:
        await self.send({"type": "control", "timestamp": timestamp, **parts})

    async def binary(self) -> bytes:
        """The next binary message; JSON messages before it are kept in `messages`."""
        while isinstance(data := await self._received(), str):
            self.messages.append(json.loads(data))
        return data

    async def _received(self) -> str | bytes:
        # `asyncio.wait_for` of Python 3.11 lets a cancellation go when a message came at the same moment.
        async with asyncio.timeout(PATIENCE_S):
            return await self.socket.recv()

    async def frame(self) -> Frame:
        """The next frame; JSON messages before it are kept in `messages`."""
        header, jpeg = unpack_frame(await self.binary())
        if header.frame == 3:
            await self._acknowledge(header)
        return Frame(header, simplejpeg.decode_jpeg(jpeg))

    async def fragment(self) -> Fragment:
        """The next fragment; frames before it are let go, init segments kept in `inits`."""
        while not (data := await self.binary()).startswith(FRAGMENT_MAGIC):
            if data.startswith(INIT_MAGIC):
                self.inits.append(unpack_init(data))
        headers, fragment = unpack_fragment(data)
        await self._acknowledge(headers[-1])
        return Fragment(headers, self.inits[-1] + fragment)

    async def fragments(self, count: int) -> list[Fragment]:
        return [await self.fragment() for _ in range(count)]

    async def _acknowledge(self, header: FrameHeader) -> None:
        if self.acknowledges:
            await self.send({"type": "seen", "sequence": header.sequence})

    async def frames(self, count: int) -> list[Frame]:
        return [await self.frame() for _ in range(count)]

    async def message(self, kind: str) -> dict[str, Any]:
        """The next JSON message of a type; frames before it are let go."""
        for i, message in enumerate(self.messages):
            if message["type"] == kind:
                return self.messages.pop(i)
        while True:
            data = await self._received()
            if isinstance(data, str):
                message = json.loads(data)
                if message["type"] == kind:
                    return message
                self.messages.append(message)


@asynccontextmanager
async def streaming(
    address: str, session: dict[str, Any], acknowledges: bool = True, directly: bool = False
) -> AsyncIterator[StreamClient]:
    """Plays a session, given as the answer to POST /v1/sessions, directly or through the proxy."""
    url = session["direct_stream_url"] if directly else address.replace("http", "ws") + session["stream_url"]
    async with websockets.connect(url, open_timeout=PATIENCE_S, ping_timeout=None) as socket:
        client = StreamClient(socket, acknowledges)
        await client.send({"type": "hello", "token": session["resume_token"]})
        yield client
