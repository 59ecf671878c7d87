"""Hears of events and of work as they come: one connection a process listens for everybody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import make_url

from gamegen.database.connection import checked_url
from gamegen.videos.events import VIDEOS_CHANNEL, WORK_CHANNEL

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
# A server that is gone without a word is noticed within half a minute.
_CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
}


class Watch:
    """Remembers that something happened until it is asked."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Something happened."""
        self._event.set()

    async def changed(self, timeout_s: float | None = None) -> bool:
        """Waits until something has happened since the last call, or since the watch began; False if time was up."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Listener:
    """`async with Listener(url) as listener`: hears what the database at `url` notifies.

    What happened while the connection was lost nobody heard: everybody is woken when it is back, and looks again.
    """

    def __init__(self, url: str) -> None:
        parts = make_url(checked_url(url)).set(drivername="postgresql")
        self._url = make_conninfo(parts.render_as_string(hide_password=False), **_CONNECT)
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self._workers: set[tuple[frozenset[str], Watch]] = set()
        self._task: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @property
    def is_connected(self) -> bool:
        """Whether it hears anything now."""
        return self._connected.is_set()

    @asynccontextmanager
    async def watching(self, generation_id: str) -> AsyncIterator[Watch]:
        """A watch of one order: read it after this began, and again whenever the watch has `changed`."""
        watch = Watch()
        self._watches[generation_id].add(watch)
        try:
            yield watch
        finally:
            self._watches[generation_id].discard(watch)
            if not self._watches[generation_id]:
                del self._watches[generation_id]

    @contextmanager
    def working(self, *kinds: str) -> Iterator[Watch]:
        """A watch of work of some kinds (PENDING, QUEUED), or of all: look for it, then wait for `changed`.

        What has to wait before it may be tried again appears without a word: look again after some seconds anyway.
        """
        entry = (frozenset(kinds), Watch())
        self._workers.add(entry)
        try:
            yield entry[1]
        finally:
            self._workers.discard(entry)

    async def work(self, *kinds: str, timeout_s: float | None = None) -> bool:
        """Waits for work that appears after this call; who looks for it in a loop uses `working`, which misses none."""
        with self.working(*kinds) as watch:
            return await watch.changed(timeout_s)

    async def _listen(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
                async with connection:
                    for channel in (VIDEOS_CHANNEL, WORK_CHANNEL):
                        await connection.execute(f"listen {channel}")
                    pause_s = _FIRST_PAUSE_S
                    self._connected.set()
                    self._wake_all()
                    async for notification in connection.notifies():
                        self._hear(notification.channel, notification.payload)
            except psycopg.Error as error:
                if self.is_connected:
                    _log.warning("nothing is heard from the database: %s", str(error).splitlines()[0])
            self._connected.clear()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _hear(self, channel: str, payload: str) -> None:
        if channel == VIDEOS_CHANNEL:
            for watch in self._watches.get(json.loads(payload)["id"], ()):
                watch.wake()
            return
        for kinds, watch in self._workers:
            if not kinds or payload in kinds:
                watch.wake()

    def _wake_all(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()
        for _, watch in self._workers:
            watch.wake()
