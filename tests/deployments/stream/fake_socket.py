"""A client's socket without a server."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from starlette.websockets import WebSocketState


class Socket:
    """A client that sends some messages, and then leaves or stays silent; keeps what it gets."""

    application_state = WebSocketState.CONNECTED
    scope: ClassVar[dict[str, str]] = {"root_path": ""}

    def __init__(self, *received: dict[str, Any], leaves: bool = True) -> None:
        self._received = [*received, *([{"type": "websocket.disconnect"}] if leaves else [])]
        self.messages: list[dict[str, Any]] = []
        self.binary: list[bytes] = []
        self.closed: int | None = None

    async def receive(self) -> dict[str, Any]:
        while not self._received:
            await asyncio.sleep(60)
        return self._received.pop(0)

    async def send_json(self, message: dict[str, Any]) -> None:
        json.dumps(message, ensure_ascii=False).encode()
        self.messages.append(message)

    async def send_bytes(self, message: bytes) -> None:
        self.binary.append(message)

    async def close(self, code: int, reason: str) -> None:
        self.closed = code


def text(message: str) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": message}
