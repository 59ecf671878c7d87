"""Waking by the database: LISTEN on a connection that is made again whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from psycopg import AsyncConnection, OperationalError, sql
from sqlalchemy import URL

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_CONNECT_TIMEOUT_S = 5


async def listen(url: URL, channel: str, wake: asyncio.Event) -> NoReturn:
    """Sets `wake` at each notification, and at each new connection for those that were missed; never ends."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        try:
            connection = await AsyncConnection.connect(
                address, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S
            )
            async with connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                wake.set()
                async for _ in connection.notifies():
                    wake.set()
        except OperationalError as error:
            logger.warning("nothing is heard from the database, trying again: %s", error)
        await asyncio.sleep(_RETRY_S)
