"""Paths at which clients reach the application: below a prefix of a reverse proxy, or of Serve."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PREFIX = re.compile(r"(?:/[\w.~!$&'()*+,;=:@%-]+)+", re.ASCII)
_LONGEST_PREFIX = 256
_FORWARDED = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-prefix"})


def base_path_of(scope: Scope) -> str:
    """The path below which a client reaches the application: the prefix that a proxy took off, then `root_path`.

    A proxy names its prefix in X-Forwarded-Prefix; what is no path is passed over.
    """
    root_path: str = scope.get("root_path", "")
    prefix = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
    if len(prefix) > _LONGEST_PREFIX or not _PREFIX.fullmatch(prefix):
        return root_path
    # A proxy may also name a prefix that it left in place, for Serve.
    return root_path if f"{root_path}/".startswith(f"{prefix}/") else prefix + root_path


def requested_host(connection: HTTPConnection) -> str | None:
    """The host that a client reached this server at; None if a reverse proxy did, whose clients may be anywhere."""
    return connection.url.hostname if _FORWARDED.isdisjoint(connection.headers.keys()) else None


class BasePathMiddleware:
    """Answers with addresses that lead back to where a request came from.

    A prefix that a reverse proxy took off is put back before `path` and `root_path`, as ASGI has it; addresses in
    answers begin with `root_path`. Redirects to the same path with or without a slash at its end (307) are relative:
    they hold below prefixes of which the proxy says nothing, and whatever Host it sends.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path, root_path = scope["path"], scope.get("root_path", "")
        base_path = base_path_of(scope)
        prefix = base_path.removesuffix(root_path)
        # In place, for the handler of unexpected errors: it is before all middleware.
        scope.update({"path": prefix + path, "root_path": base_path})
        if raw_path := scope.get("raw_path"):
            scope["raw_path"] = prefix.encode() + raw_path

        async def send_relative(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 307:
                headers = MutableHeaders(scope=message)
                query = scope["query_string"].decode("latin-1")
                headers["Location"] = _other_slash(path) + (f"?{query}" if query else "")
            await send(message)

        await self._app(scope, receive, send_relative)


def _other_slash(path: str) -> str:
    """The reference from a path to the same without the slashes at its end, or with one if it has none."""
    kept = path.rstrip("/")
    name = kept.rpartition("/")[2]
    return "../" * (len(path) - len(kept)) + name if kept != path else f"{name}/"
