"""Client of PostgreSQL's LISTEN, on a connection of its own that is made again whenever it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from gamegen.service.database.connection import CONNECT, libpq_url

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 2.0

Heard = Callable[[str, str], None]
"""Called with the channel and the payload of a notification."""


class NotificationListener:
    """Listens to `channels` of the database at `url`.

    `on_notification` is called for each notification. Those sent while the connection is lost are missed:
    `on_connection` is called after each connection, the first included, so that callers look again.
    """

    def __init__(
        self,
        url: str,
        channels: Sequence[str],
        *,
        on_notification: Heard,
        on_connection: Callable[[], None],
    ) -> None:
        self._url = make_conninfo(libpq_url(url), **CONNECT)
        self._channels = channels
        self._on_notification = on_notification
        self._on_connection = on_connection
        self.is_connected = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listens until the end of the context."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
                async with connection:
                    for channel in self._channels:
                        await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                    pause_s = _FIRST_PAUSE_S
                    self.is_connected = True
                    self._on_connection()
                    async for notification in connection.notifies():
                        self._on_notification(notification.channel, notification.payload)
            except psycopg.Error as error:
                if self.is_connected:
                    _log.warning("the connection for notifications is lost: %s", str(error).splitlines()[0])
            self.is_connected = False
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
