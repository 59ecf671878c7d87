"""Answers of the proxy itself as problems: to requests whose replica died, and while no application is served."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.ingress.base_path import base_path_of

_PROBLEM_TYPE = b"application/problem+json"
_INTERRUPTED = (
    "interrupted",
    "the server process handling this request died: retry it, with the same X-Request-ID if it orders something",
)
_PROXY_ERRORS = {
    404: ("not_found", "nothing is served here: the application is not running"),
    503: ("not_ready", "the server is starting or busy: try again in a few seconds"),
}
"""Code and message for each status that the proxy itself answers with."""
_UNEXPECTED = (
    "proxy_error",
    "the proxy cannot pass this request on: try again, and see its log if it keeps failing",
)
_RETRY_AFTER_S = 1


class LostReplicaMiddleware:
    """Answers 503 with Retry-After where the application ends without a response; the request may be retried.

    The proxy's own errors, which are plain text, become problems too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = is_replaced = False

        async def send_noted(message: Message) -> None:
            nonlocal has_started, is_replaced
            if message["type"] == "http.response.start":
                has_started = True
                is_replaced = message["status"] >= 400 and not _is_problem(message)
                if is_replaced:
                    status = message["status"]
                    await _answer(scope, status, *_PROXY_ERRORS.get(status, _UNEXPECTED), send)
            if not is_replaced:
                await send(message)

        await self._app(scope, receive, send_noted)
        if not has_started:
            await _answer(scope, 503, *_INTERRUPTED, send)


def _is_problem(start: Message) -> bool:
    return Headers(raw=list(start["headers"])).get("content-type", "").encode().startswith(_PROBLEM_TYPE)


async def _answer(scope: Scope, status: int, code: str, message: str, send: Send) -> None:
    body: dict[str, Any] = {
        "type": f"{base_path_of(scope)}/docs#{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": message,
        "code": code,
        "error": {"code": code, "message": message},
    }
    data = json.dumps(body).encode()
    headers = [(b"content-type", _PROBLEM_TYPE), (b"content-length", str(len(data)).encode())]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", str(_RETRY_AFTER_S).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
