"""A second HTTP server in each ingress replica, past Serve's proxy.

Through the proxy every frame is copied twice more and packed by two processes, which costs more than all else that an
ingress does with it; orders of clips cost less without it as well. It serves the stream, whose first message has to
bring the session's token, and the clip service, which asks for the same API keys as anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvicorn
from starlette.types import ASGIApp

from deployments.ingress.proxy import StreamProtocol

STREAM_PATH = "/v1/sessions/{session_id}/stream"
_CLOSE_TIMEOUT_S = 5.0
_LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


class DirectServer:
    """Serves an application at a free port of `host`, an address of this machine."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self, app: ASGIApp) -> None:
        """Listens and serves in the running event loop; without effect if it does already, or without a host."""
        if self._task is not None or not self._host:
            return
        self._socket = socket.create_server((self._host, 0))
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, ws=StreamProtocol)
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(_serve(self._server, self._socket))

    def stream_url(self, session_id: str, requested_host: str | None) -> str | None:
        """The URL of a session's stream here, for a client that sent its request to `requested_host`; None if none.

        A loopback address is of use only to clients that reached the server by one.
        """
        address = self._address(requested_host)
        return address and f"ws://{address}" + STREAM_PATH.format(session_id=session_id)

    def http_url(self, requested_host: str | None) -> str | None:
        """The URL of the clip service here, likewise."""
        address = self._address(requested_host)
        return address and f"http://{address}"

    async def close(self) -> None:
        """Stops listening, and waits up to five seconds for the sockets to close."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.shield(self._task)

    def _address(self, requested_host: str | None) -> str | None:
        if self._socket is None or (self._host in _LOOPBACK_HOSTS and requested_host not in _LOOPBACK_HOSTS):
            return None
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"


async def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    # Signals are Ray's.
    with contextlib.suppress(AttributeError):
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    await server.serve(sockets=[listening])
