"""A socket: frames and messages out, checked messages in."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketState

from deployments.client_messages import (
    ByeMessage,
    ClientMessage,
    PingMessage,
    SeenMessage,
    parse_client_message,
)
from deployments.errors import shortened
from deployments.metrics import MESSAGES_REFUSED, STREAMS_ENDED
from deployments.settings import IngressSettings
from deployments.wire import BinaryControl, FrameHeader, pack_fragment, pack_init, unpack_control
from gamegen.boxes import split_init
from gamegen.controls import FRAMES_PER_CHUNK

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
"""Close codes as metrics name them."""
_FRAMES_IN_A_ROW = 12
_MOST_ERRORS_PER_S = 20
"""Beyond these a client is not told any more what is wrong with its messages, but sent away."""

Message = ClientMessage | BinaryControl


class Allowance:
    """So many events a second, counted from the first after the last second was over."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._began_s = -math.inf
        self._count = 0

    def is_within(self) -> bool:
        """Counts an event."""
        now = time.monotonic()
        if now - self._began_s >= 1:
            self._began_s, self._count = now, 0
        self._count += 1
        return self._count <= self._per_s


class Connection:
    """One socket.

    A client acknowledges frames; beyond `max_unacknowledged_frames` that it has not, frames are dropped, and the newest
    ones come again when it has caught up: a row of them, so that one is there that it acknowledges, since clients do so
    for one of several. Frames of a fragment are sent or dropped together.
    """

    def __init__(self, socket: WebSocket, settings: IngressSettings) -> None:
        self._socket = socket
        self._settings = settings
        self._may_send = Allowance(settings.max_messages_per_s)
        self._may_err = Allowance(_MOST_ERRORS_PER_S)
        self._unacknowledged: deque[int] = deque()
        self._is_behind = False
        self._init = b""
        self._is_ended = False
        self._is_unanswered = False
        self._silent_s = 0.0

    async def send_frame(self, header: FrameHeader, jpeg: bytes) -> int:
        """Sends a frame and returns its bytes; 0 if it was dropped, since the client is too far behind or gone."""
        is_sent = self._has_room(1) and await self._send_frames(header.pack() + jpeg, header.sequence, 1)
        return len(jpeg) * is_sent

    async def send_fragment(self, header: FrameHeader, interval_ms: float, file: bytes) -> int:
        """The same with the fragment of a chunk's MP4 file; its init segment goes before the first, or another one."""
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
        """Counts `interval_s` as silent if no message came since frames were sent; returns the seconds without a break.

        To be called every `interval_s`: by the clock, a server that was held up would take what it has not read yet for
        silence, and one that sent nothing would blame those who had nothing to answer.
        """
        if self._is_unanswered:
            self._silent_s += interval_s
        return self._silent_s

    def repeat_init(self) -> None:
        """The next fragment is sent with its init segment, whether or not there was one before."""
        self._init = b""

    def _has_room(self, num_frames: int) -> bool:
        # Whoever may have fewer frames on their way than a fragment has gets one at a time.
        limit = max(self._settings.max_unacknowledged_frames, num_frames)
        wanted = max(num_frames, min(_FRAMES_IN_A_ROW, limit // 2)) if self._is_behind else num_frames
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
        """Sends a JSON message; a client that is gone gets none."""
        try:
            await self._socket.send_json(message)
        except (RuntimeError, WebSocketDisconnect):
            return

    async def send_error(self, code: str, message: str, fatal: bool = False) -> None:
        """Says what is wrong and what to do; with `fatal` the socket will be closed."""
        MESSAGES_REFUSED.add(tag=code)
        await self.send_message({"type": "error", "code": code, "message": message, "fatal": fatal})

    async def close(self, code: int, reason: str) -> None:
        """Closes the socket with a reason for the client."""
        if self._socket.application_state is WebSocketState.CONNECTED:
            self._note_end(_REASONS[code])
            try:
                # A control frame has 125 bytes, two of them the code.
                await self._socket.close(code, reason.encode()[:120].decode(errors="ignore"))
            except (RuntimeError, WebSocketDisconnect):
                return

    async def messages(self) -> AsyncIterator[Message]:
        """What the client says, until it leaves or is sent away; wrong messages are answered and left out."""
        while True:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                self._note_end("left")
                return
            self._is_unanswered, self._silent_s = False, 0.0
            if not self._may_send.is_within():
                limit = self._settings.max_messages_per_s
                await self.send_error("too_many_messages", f"more than {limit} messages a second", fatal=True)
                await self.close(CLOSE_TOO_MANY_MESSAGES, f"more than {limit} messages a second")
                return
            try:
                message = self._parse(received)
            except ValueError as error:
                if not self._may_err.is_within():
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

    def _note_end(self, reason: str) -> None:
        if not self._is_ended:
            self._is_ended = True
            STREAMS_ENDED.add(tag=reason)

    def _parse(self, received: MutableMapping[str, Any]) -> Message:
        text = received.get("text")
        if text is None:
            return unpack_control(received.get("bytes") or b"")
        return parse_client_message(text, self._settings.max_message_bytes)
