"""One socket of one session: frames and messages out, checked messages in."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketState

from deployments.errors import ApiError
from deployments.messages import EncodedText, Instruction, Refusal
from deployments.player import Player
from deployments.schemas import ControlMessage, SeenMessage, SpokenInstruction, parse_client_message
from deployments.settings import IngressSettings
from deployments.wire import FrameHeader

logger = logging.getLogger("ray.serve")

CLOSE_UNKNOWN_SESSION = 4404
CLOSE_TAKEN_OVER = 4001
CLOSE_IDLE = 4408
CLOSE_ENDED = 4410

Encode = Callable[[str], Awaitable[EncodedText | Refusal]]


class Connection:
    """The player's socket.

    A client that sends `seen` messages is sent at most `max_unacknowledged_frames` it has not answered;
    frames beyond that are dropped, newest first come again when it has caught up. Of a client that sends
    none, the transport's own keep-alive is what ends a connection that stalls.
    """

    def __init__(self, socket: WebSocket, player: Player, encode: Encode, settings: IngressSettings) -> None:
        self._socket = socket
        self._player = player
        self._encode = encode
        self._settings = settings
        self._newest_sent = -1
        self._unacknowledged: int | None = None
        self.last_active_s = time.monotonic()

    async def send_frame(self, header: FrameHeader, jpeg: bytes) -> bool:
        """Sends a frame unless the client is too far behind or gone."""
        if self._unacknowledged is not None:
            if self._unacknowledged >= self._settings.max_unacknowledged_frames:
                return False
            self._unacknowledged += 1
        try:
            await self._socket.send_bytes(header.pack() + jpeg)
        except (RuntimeError, WebSocketDisconnect):
            return False
        self._newest_sent = header.sequence
        return True

    async def send_message(self, message: dict[str, Any]) -> None:
        """Sends a JSON message; a client that is gone gets none."""
        try:
            await self._socket.send_json(message)
        except (RuntimeError, WebSocketDisconnect):
            return

    async def close(self, code: int, reason: str) -> None:
        """Closes the socket with a reason for the client."""
        if self._socket.application_state is WebSocketState.CONNECTED:
            try:
                await self._socket.close(code, reason)
            except (RuntimeError, WebSocketDisconnect):
                return

    async def receive_all(self) -> None:
        """Answers messages until the client leaves."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            try:
                if text is None:
                    raise ValueError("binary messages are not understood: send JSON text")
                await self._handle(parse_client_message(text, self._settings.max_message_bytes))
            except (ValueError, ApiError) as error:
                await self.send_message({"type": "error", "message": str(error)})

    async def _handle(self, message: ControlMessage | SeenMessage) -> None:
        if isinstance(message, SeenMessage):
            self._unacknowledged = max(0, self._newest_sent - message.sequence)
            return
        self.last_active_s = time.monotonic()
        self._player.controls.apply(message)
        if message.instruction:
            await self._instruct(message.instruction, message.timestamp)

    async def _instruct(self, spoken: SpokenInstruction, timestamp: float) -> None:
        text = spoken.text.strip()
        words = await self._encode(text) if text else None
        if isinstance(words, Refusal):
            raise ValueError(words.message)
        chunk = self._player.instruct(text, Instruction(words))
        ack = {"type": "ack", "instruction": text, "chunk": chunk, "timestamp": timestamp}
        await self.send_message(ack)
