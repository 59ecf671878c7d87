"""Rules for all requests before they reach a route: who may send them, of what type and size their bodies are."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import ApiError, problem_response
from deployments.ingress.body_limit import BodyLimitMiddleware
from deployments.ingress.foreign_pages import ForeignPageGuard
from deployments.limits import MAX_BODY_BYTES

_JSON = re.compile(r"application/([a-z0-9.+-]+[+])?json")
_FORM = "multipart/form-data"
_UNSAID = ("", "application/x-www-form-urlencoded")
"""Content types that say nothing: none, and the one that curl sends unless it is told another."""
_READABLE_HEADERS = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Location",
    "Retry-After",
    "X-Request-ID",
)
_PREFLIGHT_KEPT_S = 600


def install_request_rules(
    app: FastAPI, allowed_origins: Sequence[str], *, guards_sockets: bool = True
) -> None:
    """Has an application refuse foreign pages, and bodies that are too large or of a type that it does not read.

    Pages of `allowed_origins` may use it and read its answers; without `guards_sockets` any page may open sockets.
    """
    app.add_middleware(BodyLimitMiddleware, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(PlainRequestMiddleware)
    if allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allowed_origins,
            allow_methods=("*",),
            allow_headers=("*",),
            expose_headers=_READABLE_HEADERS,
            allow_private_network=True,
            max_age=_PREFLIGHT_KEPT_S,
        )
    app.add_middleware(
        ForeignPageGuard,
        allowed_origins=allowed_origins,
        guards_sockets=guards_sockets,
        # With keys a reverse proxy is likely, which passes on the name that it is asked by.
        checks_host=not os.environ.get("GAMEGEN_API_KEYS"),
    )


class PlainRequestMiddleware:
    """Leaves out parameters without a value, and has bodies read as JSON or as a multipart form, else answers 415.

    A body of no type, or of curl's default one, is JSON. Other types are refused: a page of another site may send
    `text/plain` without asking first.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        query = scope.get("query_string", b"")
        if query.endswith(b"=") or b"=&" in query:
            pairs = [pair for pair in query.split(b"&") if pair.partition(b"=")[1:] != (b"=", b"")]
            scope = {**scope, "query_string": b"&".join(pairs)}
        if scope["type"] == "http" and _has_body(headers := Headers(scope=scope)):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind in _UNSAID:
                scope = {**scope, "headers": [*scope["headers"]]}
                MutableHeaders(scope=scope)["content-type"] = "application/json"
            elif kind != _FORM and not _JSON.fullmatch(kind):
                message = f"Content-Type: {kind[:80]!r} is not read here: send JSON as application/json"
                error = ApiError(415, "unsupported_media_type", message)
                await problem_response(scope, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
