"""What the HTTP proxy's server does with sockets and lost replicas, and Serve has no setting for.

Serve calls `configure` in every proxy before it listens: `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it.
"""

from __future__ import annotations

from typing import Any

from starlette.middleware import Middleware
from uvicorn import config as server
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from deployments.settings import MAX_SOCKET_MESSAGE_BYTES
from deployments.unanswered import Unanswered


class StreamProtocol(WebSocketsSansIOProtocol):
    """WebSockets for the stream.

    Messages are not compressed: JPEG files get no smaller by it, and what is not inflated is no bomb. One over
    `MAX_SOCKET_MESSAGE_BYTES` closes the socket with 1009 instead of being collected. A client that reads nothing is
    cut off some seconds after it missed a ping, with all that still waited for it.
    """

    def __init__(self, config: server.Config, *args: Any, **options: Any) -> None:
        config.ws_per_message_deflate = False
        config.ws_max_size = MAX_SOCKET_MESSAGE_BYTES
        super().__init__(config, *args, **options)

    def keepalive_timeout(self) -> None:
        """No pong came in time."""
        super().keepalive_timeout()
        # Closing waits until everything was read, which may be never, and keeps a place in the ingress until then.
        self.loop.call_later(self.close_timeout, self.transport.abort)


def configure() -> list[Middleware]:
    """Puts the protocol in place; requests of replicas that died are answered."""
    server.WS_PROTOCOLS["auto"] = f"{__name__}:{StreamProtocol.__name__}"
    return [Middleware(Unanswered)]
