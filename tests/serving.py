"""What the serving tests share: a client's side of the stream, and a running application."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import websockets
from PIL import Image

from deployments.places import Places
from deployments.settings import ServeSettings, load_settings
from deployments.wire import (
    FRAGMENT_MAGIC,
    INIT_MAGIC,
    FrameHeader,
    unpack_fragment,
    unpack_frame,
    unpack_init,
)

PATIENCE_S = 120.0
"""How long a test waits before it calls something lost; no test passes or fails by being slow or quick."""


def free_port() -> int:
    """A TCP port that nobody listens on."""
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
        # Tests wait for each other's worlds: all places are offered however late chunks come.
        world=dataclasses.replace(
            settings.world, threads=1, slots=3, snapshot_every_chunks=5, most_late_share=1
        ),
        generator=dataclasses.replace(settings.generator, threads=1),
    )


@contextmanager
def served(settings: ServeSettings, places: Places) -> Iterator[None]:
    """Runs the application on the Serve instance that is up."""
    from ray import serve

    from deployments.app import NAME, build_app

    serve.run(build_app(settings, places), name=NAME, route_prefix="/")
    yield
    serve.delete(NAME)


def png(width: int, height: int, colour: tuple[int, int, int] = (200, 90, 20)) -> bytes:
    """A PNG file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame as a client got it."""

    header: FrameHeader
    pixels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Fragment:
    """A chunk as a client got it: its four headers, and the MP4 file that it and the newest init segment make."""

    headers: list[FrameHeader]
    file: bytes


class StreamClient:
    """One socket of one session."""

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
