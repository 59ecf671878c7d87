"""A reverse proxy that serves an application below a path prefix, as nginx, JupyterHub and code-server do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web

_HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "upgrade", "keep-alive"}
_SOCKET_HEADERS = {"sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"}


class _PrefixProxy:
    """Takes `prefix` off each path, which it tells with `names_prefix`; forwards Host and Origin as they came."""

    def __init__(self, server: str, prefix: str, *, names_prefix: bool) -> None:
        self._server = server
        self._prefix = prefix
        self._names_prefix = names_prefix
        self._session: ClientSession

    async def open(self) -> tuple[web.AppRunner, int]:
        """Listens at a free port, which it returns."""
        self._session = ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    async def close(self) -> None:
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if not f"{request.path}/".startswith(f"{self._prefix}/"):
            return web.Response(status=404, text=f"the proxy has nothing at {request.path}")
        path = request.raw_path.removeprefix(self._prefix)
        # Some proxies hand the prefix without a slash on as the root.
        url = self._server + (path if path.startswith("/") else f"/{path}")
        headers = {
            **{name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP},
            "X-Forwarded-For": request.remote or "",
            "X-Forwarded-Proto": request.scheme,
            "X-Forwarded-Host": request.host,
        }
        if self._names_prefix:
            headers["X-Forwarded-Prefix"] = self._prefix
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._forward_socket(request, url, headers)
        return await self._forward(request, url, headers)

    async def _forward(self, request: web.Request, url: str, headers: dict[str, str]) -> web.StreamResponse:
        body = await request.read()
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            if "Content-Length" in answer.headers:
                response.content_length = int(answer.headers["Content-Length"])
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    async def _forward_socket(
        self, request: web.Request, url: str, headers: dict[str, str]
    ) -> web.WebSocketResponse:
        kept = {name: value for name, value in headers.items() if name.lower() not in _SOCKET_HEADERS}
        async with self._session.ws_connect(url, headers=kept, max_msg_size=0) as server:
            client = web.WebSocketResponse(max_msg_size=0)
            await client.prepare(request)
            pumps = [asyncio.create_task(_pump(*ends)) for ends in ((client, server), (server, client))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await client.close(code=server.close_code or 1000)
        return client


async def _pump(
    source: web.WebSocketResponse | ClientWebSocketResponse,
    sink: web.WebSocketResponse | ClientWebSocketResponse,
) -> None:
    async for message in source:
        if message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await sink.send_bytes(message.data)


@contextmanager
def prefix_proxy(server: str, prefix: str, *, names_prefix: bool) -> Iterator[str]:
    """The address, with the prefix and without a slash at its end, at which `server` is reached meanwhile."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = _PrefixProxy(server, prefix, names_prefix=names_prefix)
    runner, port = asyncio.run_coroutine_threadsafe(proxy.open(), loop).result()
    try:
        yield f"http://127.0.0.1:{port}{prefix}"
    finally:
        for closing in (proxy.close(), runner.cleanup()):
            asyncio.run_coroutine_threadsafe(closing, loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
