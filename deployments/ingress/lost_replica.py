"""Answers of the proxy to requests whose replica died, which the server would answer with a bare 500."""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.ingress.base_path import forwarded_prefix

_STATUS, _CODE, _RETRY_AFTER_S = 503, "interrupted", 1
_MESSAGE = "the server process handling this request died: retry it, with the same X-Request-ID if it orders something"


class LostReplicaMiddleware:
    """Answers 503 with Retry-After where the application ends without a response; the request may be retried."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def send_noted(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        await self._app(scope, receive, send_noted)
        if not has_started:
            base_path = forwarded_prefix(Headers(scope=scope)) + scope.get("root_path", "")
            for message in _response(base_path):
                await send(message)


def _response(base_path: str) -> list[Message]:
    # The clip service's errors are problems, those of play have an `error`; the body serves clients of both.
    body: dict[str, Any] = {
        "type": f"{base_path}/docs#{_CODE}",
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
