"""A door of its own for each ingress replica: for what does not pass through Serve's proxy.

Through the proxy every frame is copied twice more and packed by two processes, which costs more than all else that an
ingress does with it; orders of clips cost less without it as well. The stream is here, whose first message has to bring
the session's token, and the clip service, which asks for the same API keys as anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

import uvicorn
from fastapi import FastAPI, WebSocket

from deployments.body_limit import BodyLimit
from deployments.errors import install_error_handlers
from deployments.proxy import StreamProtocol
from deployments.schemas import MAX_BODY_BYTES
from deployments.videos import counter
from deployments.videos.problems import EchoingRoute, refusal
from deployments.videos.routes import mount_videos

logger = logging.getLogger("ray.serve")

_STREAM_PATH = "/v1/sessions/{session_id}/stream"
_CLOSING_S = 5.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class DirectDoor:
    """Serves `play(socket, session_id)` at a free port of an address of this machine."""

    def __init__(self, play: Callable[[WebSocket, str], Awaitable[None]], host: str) -> None:
        self._play = play
        self._host = host
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begins to listen, in the running event loop; nothing if it does already."""
        if self._task is not None:
            return
        app = FastAPI(openapi_url=None)
        app.add_api_websocket_route(_STREAM_PATH, self._play)
        install_error_handlers(app)
        mount_videos(app, counter.video_api, EchoingRoute)
        app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES, refuse=refusal)
        self._socket = socket.create_server((self._host, 0))
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, ws=StreamProtocol)
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._serve(self._server, self._socket))

    def url(self, session_id: str, asked: str | None) -> str | None:
        """Where a session can be played directly by a client that asked for it at the host `asked`; None if nowhere.

        A loopback address is good for those only who reached the server by one.
        """
        address = self._address(asked)
        return address and f"ws://{address}" + _STREAM_PATH.format(session_id=session_id)

    def clips_url(self, asked: str | None) -> str | None:
        """Where clips can be ordered directly, likewise."""
        address = self._address(asked)
        return address and f"http://{address}"

    def _address(self, asked: str | None) -> str | None:
        if self._socket is None or (self._host in _LOOPBACK and asked not in _LOOPBACK):
            return None
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    async def close(self) -> None:
        """Listens no more, and waits a little for the sockets to close."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_S):
                await asyncio.shield(self._task)

    async def _serve(self, server: uvicorn.Server, listening: socket.socket) -> None:
        # Signals are Ray's.
        with contextlib.suppress(AttributeError):
            server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        await server.serve(sockets=[listening])
