"""Requests that nobody answers: the replica that had them died. The proxy would let the server say 500, and no more."""

from __future__ import annotations

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STATUS, _CODE, _RETRY_AFTER_S = 503, "interrupted", 1
_MESSAGE = (
    "whoever worked on the request is gone: send it again, with the same X-Request-ID if it orders something"
)


class Unanswered:
    """Answers with 503 and Retry-After where the application ends without an answer: the request may be sent again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        await self._app(scope, receive, note)
        if not has_begun:
            for message in _answer():
                await send(message)


def _answer() -> list[Message]:
    # The clip service's errors are problems, those of play have an error: here nobody knows which it would have been.
    body: dict[str, Any] = {
        "type": f"/docs#{_CODE}",
        "title": "Service Unavailable",
        "status": _STATUS,
        "detail": _MESSAGE,
        "code": _CODE,
        "error": {"code": _CODE, "message": _MESSAGE},
    }
    data = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(data)).encode()),
        (b"retry-after", str(_RETRY_AFTER_S).encode()),
    ]
    return [
        {"type": "http.response.start", "status": _STATUS, "headers": headers},
        {"type": "http.response.body", "body": data},
    ]
