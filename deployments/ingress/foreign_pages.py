"""Protection from pages of other web sites, which a browser lets send requests to any server that it reaches.

A browser says with `Origin` whose page sends a request; programs send none. Without this, any site that somebody has
open could play and order clips on the server of that machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import ApiError, problem_response

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_PRIVATE_NAMES = (".localhost", ".internal")
"""Endings of names that nobody can register."""
_SETTING = "ingress.allowed_origins in the settings, or gamegen play --allow-origin"
_CLOSE_REFUSED = 1008


class ForeignPageGuard:
    """Refuses requests of pages that are neither this server's nor of `allowed_origins`: 403, sockets too.

    With `checks_host` it also refuses, with 421, requests over the loopback address under a name that somebody may have
    registered: a page whose name is made to point here would pass for this server's own. Without `guards_sockets`
    sockets may be opened by any page.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_origins: Sequence[str] = (),
        guards_sockets: bool = True,
        checks_host: bool = True,
    ) -> None:
        self._app = app
        self._allowed_origins = frozenset(allowed_origins)
        self._allowed_names = {urlsplit(origin).hostname for origin in allowed_origins}
        self._guards_sockets = guards_sockets
        self._checks_host = checks_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        error = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if error is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await problem_response(scope, error)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": _CLOSE_REFUSED, "reason": error.code})

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._checks_host and _is_loopback(scope) and not self._is_own_name(host):
            message = (
                f"Host: {host[:80]!r} is not a name of this server: use 127.0.0.1 or localhost, or allow its origin "
                f"({_SETTING})"
            )
            return ApiError(421, "foreign_host", message)
        origin = headers.get("origin")
        if origin is None or (scope["type"] == "websocket" and not self._guards_sockets):
            return None
        # Browsers alone can send this, and behind a proxy it is right where Host is not.
        if origin in self._allowed_origins or headers.get("sec-fetch-site") == "same-origin":
            return None
        forwarded = headers.get("x-forwarded-host", "").partition(",")[0].strip()
        if any(_is_same(origin, name) for name in (host, forwarded) if name):
            return None
        message = f"Origin: pages of {origin[:80]!r} may not use this server: allow them with {_SETTING}"
        return ApiError(403, "foreign_origin", message)

    def _is_own_name(self, host: str) -> bool:
        name = _split(f"//{host}").hostname or ""
        return not host or name in self._allowed_names or _cannot_be_registered(name)


def _is_loopback(scope: Scope) -> bool:
    """True for a request that came in by the loopback address."""
    try:
        address = ipaddress.ip_address((scope.get("server") or ("",))[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _cannot_be_registered(name: str) -> bool:
    """True for addresses and for names that no stranger can have point anywhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(_PRIVATE_NAMES)
    return True


def _is_same(origin: str, host: str) -> bool:
    """True if a page of `origin` was given out under this Host, by whatever scheme: TLS may end at a proxy."""
    page, server = _split(origin), _split(f"//{host}")
    if not page.hostname or page.hostname != server.hostname:
        return False
    default = _DEFAULT_PORTS.get(page.scheme)
    # A proxy that names no port may have left it out.
    return _port(server) is None or (_port(page) or default) == _port(server)


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _port(address: SplitResult) -> int | None:
    try:
        return address.port
    except ValueError:
        return -1
