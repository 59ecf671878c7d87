"""Addresses of an older API, answered as if the new ones had been asked for."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

ALIASES = {
    "/api/v1/generate": "/v1/videos",
    "/api/v1/control": "/v1/control",
    "/api/v1/status": "/v1/status",
}


class Aliases:
    """Renames what a request asks for before it is looked up: `app.add_middleware(Aliases)`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        path = ALIASES.get(scope.get("path", ""))
        if scope["type"] == "http" and path:
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
