"""Client's socket: sends frames and JSON messages, receives checked messages, and drops frames for slow clients."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketState

from deployments.errors import shortened
from deployments.observability.play_metrics import MESSAGES_REFUSED, STREAMS_ENDED
from deployments.rate_limit import FixedWindowLimiter
from deployments.settings import IngressSettings
from deployments.stream.client_messages import (
    ByeMessage,
    ClientMessage,
    PingMessage,
    SeenMessage,
    parse_client_message,
)
from deployments.stream.wire import BinaryControl, FrameHeader, pack_fragment, pack_init, unpack_control
from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.media.fmp4 import split_init

CLOSE_TAKEN_OVER = 4001
CLOSE_WRONG_TOKEN = 4401
CLOSE_UNKNOWN_SESSION = 4404
CLOSE_IDLE = 4408
CLOSE_ENDED = 4410
CLOSE_TOO_MANY_MESSAGES = 4429
CLOSE_MIGRATE = 4503

_REASONS = {
    CLOSE_TAKEN_OVER: "taken_over",
    CLOSE_WRONG_TOKEN: "wrong_token",
    CLOSE_UNKNOWN_SESSION: "unknown_session",
    CLOSE_IDLE: "idle",
    CLOSE_ENDED: "ended",
    CLOSE_TOO_MANY_MESSAGES: "too_many_messages",
    CLOSE_MIGRATE: "migrate",
}
"""Names of the close codes in metrics."""
_MIN_RUN_FRAMES = 12
_MAX_ERRORS_PER_S = 20
"""Limit on wrong messages; a client that sends more is disconnected."""

Message = ClientMessage | BinaryControl


class Connection:
    """One client's socket, with back-pressure.

    A client acknowledges one of several frames. Frames beyond `max_unacknowledged_frames` are dropped until there is
    room for a run of them, so that the run holds one that the client acknowledges. Frames of a fragment are sent or
    dropped together.
    """

    def __init__(self, socket: WebSocket, settings: IngressSettings) -> None:
        self._socket = socket
        self._settings = settings
        self._message_limiter = FixedWindowLimiter(settings.max_messages_per_s)
        self._error_limiter = FixedWindowLimiter(_MAX_ERRORS_PER_S)
        self._unacknowledged: deque[int] = deque()
        self._is_behind = False
        self._init = b""
        self._is_ended = False
        self._is_unanswered = False
        self._silent_s = 0.0

    @property
    def base_path(self) -> str:
        """The path below which the client reaches the application, "" at a host's root."""
        return self._socket.scope["root_path"]

    async def send_frame(self, header: FrameHeader, jpeg: bytes) -> int:
        """Sends a frame and returns its size in bytes; 0 if it was dropped: the client is too far behind or gone."""
        is_sent = self._has_room(1) and await self._send_frames(header.pack() + jpeg, header.sequence, 1)
        return len(jpeg) * is_sent

    async def send_fragment(self, header: FrameHeader, interval_ms: float, file: bytes) -> int:
        """Sends a chunk's MP4 file as a fragment, after its init segment if that is new; returns as `send_frame`."""
        if not self._has_room(FRAMES_PER_CHUNK):
            return 0
        init, fragment = split_init(file)
        if init != self._init:
            self._init = init
            await self._send_bytes(pack_init(init))
        message = pack_fragment(header, interval_ms, fragment)
        newest = header.sequence + FRAMES_PER_CHUNK - 1
        return len(fragment) * await self._send_frames(message, newest, FRAMES_PER_CHUNK)

    def count_silence(self, interval_s: float) -> float:
        """Adds `interval_s` to the client's silence if no message came since frames were sent; returns it in seconds.

        To be called every `interval_s`. Counted in calls and not by the clock, since a server that was held up would
        take messages that it has not read yet for silence.
        """
        if self._is_unanswered:
            self._silent_s += interval_s
        return self._silent_s

    def repeat_init(self) -> None:
        """Sends the init segment again before the next fragment."""
        self._init = b""

    def _has_room(self, num_frames: int) -> bool:
        # A limit below a fragment's frames still lets one fragment through at a time.
        limit = max(self._settings.max_unacknowledged_frames, num_frames)
        wanted = max(num_frames, min(_MIN_RUN_FRAMES, limit // 2)) if self._is_behind else num_frames
        self._is_behind = len(self._unacknowledged) + wanted > limit
        return not self._is_behind

    async def _send_frames(self, message: bytes, newest: int, num_frames: int) -> bool:
        self._unacknowledged.extend(range(newest - num_frames + 1, newest + 1))
        self._is_unanswered = True
        return await self._send_bytes(message)

    async def _send_bytes(self, message: bytes) -> bool:
        try:
            await self._socket.send_bytes(message)
        except (RuntimeError, WebSocketDisconnect):
            return False
        return True

    async def send_message(self, message: dict[str, Any]) -> None:
        """Sends a JSON message; no effect if the client is gone."""
        try:
            await self._socket.send_json(message)
        except (RuntimeError, WebSocketDisconnect):
            return

    async def send_error(self, code: str, message: str, fatal: bool = False) -> None:
        """Sends an error message: what is wrong and what to do; with `fatal` the socket will be closed."""
        MESSAGES_REFUSED.add(tag=code)
        await self.send_message({"type": "error", "code": code, "message": message, "fatal": fatal})

    async def close(self, code: int, reason: str) -> None:
        """Closes the socket with a code and a reason for the client."""
        if self._socket.application_state is WebSocketState.CONNECTED:
            self._count_end(_REASONS[code])
            try:
                # A control frame has 125 bytes, two of them the code.
                await self._socket.close(code, reason.encode()[:120].decode(errors="ignore"))
            except (RuntimeError, WebSocketDisconnect):
                return

    async def messages(self) -> AsyncIterator[Message]:
        """The client's messages until the socket closes; wrong ones are answered with an error and left out."""
        while True:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                self._count_end("left")
                return
            self._is_unanswered, self._silent_s = False, 0.0
            if not self._message_limiter.allow():
                limit = self._settings.max_messages_per_s
                await self.send_error("too_many_messages", f"more than {limit} messages a second", fatal=True)
                await self.close(CLOSE_TOO_MANY_MESSAGES, f"more than {limit} messages a second")
                return
            try:
                message = self._parse(received)
            except ValueError as error:
                if not self._error_limiter.allow():
                    await self.close(CLOSE_TOO_MANY_MESSAGES, "too many wrong messages")
                    return
                await self.send_error("invalid_message", shortened(str(error)))
                continue
            if isinstance(message, SeenMessage):
                while self._unacknowledged and self._unacknowledged[0] <= message.sequence:
                    self._unacknowledged.popleft()
            elif isinstance(message, PingMessage):
                pong = {"type": "pong", "timestamp": message.timestamp, "server_ms": 1000 * time.monotonic()}
                await self.send_message(pong)
            else:
                yield message
            if isinstance(message, ByeMessage):
                return

    def _count_end(self, reason: str) -> None:
        if not self._is_ended:
            self._is_ended = True
            STREAMS_ENDED.add(tag=reason)

    def _parse(self, received: MutableMapping[str, Any]) -> Message:
        text = received.get("text")
        if text is None:
            return unpack_control(received.get("bytes") or b"")
        return parse_client_message(text, self._settings.max_message_bytes)
