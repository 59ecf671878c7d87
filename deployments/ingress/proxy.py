"""Configuration of the HTTP proxy's server for sockets and lost replicas, for which Serve has no setting.

Serve calls `configure` in every proxy before it listens: `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it.
"""

from __future__ import annotations

from typing import Any

from starlette.middleware import Middleware
from uvicorn import config as server
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from deployments.ingress.lost_replica import LostReplicaMiddleware
from deployments.limits import MAX_SOCKET_MESSAGE_BYTES


class StreamProtocol(WebSocketsSansIOProtocol):
    """The WebSocket protocol of the stream.

    Messages are not compressed: JPEG files do not shrink, and an uncompressed message cannot be a decompression bomb.
    A message over `MAX_SOCKET_MESSAGE_BYTES` closes the socket with code 1009. A client that reads nothing is
    disconnected some seconds after it missed a ping, and what was queued for it is dropped.
    """

    def __init__(self, config: server.Config, *args: Any, **options: Any) -> None:
        config.ws_per_message_deflate = False
        config.ws_max_size = MAX_SOCKET_MESSAGE_BYTES
        super().__init__(config, *args, **options)

    def keepalive_timeout(self) -> None:
        """Disconnects a client whose pong did not come in time."""
        super().keepalive_timeout()
        # Closing waits until everything was read, which may be never, and occupies a request slot of the ingress.
        self.loop.call_later(self.close_timeout, self.transport.abort)


def configure() -> list[Middleware]:
    """Sets the WebSocket protocol and returns the proxy's middleware."""
    server.WS_PROTOCOLS["auto"] = f"{__name__}:{StreamProtocol.__name__}"
    return [Middleware(LostReplicaMiddleware)]
