"""Watches of orders and of work: one connection of a process listens for all of them."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from gamegen.service.database.notifications import NotificationListener
from gamegen.service.orders.events import VIDEOS_CHANNEL, WORK_CHANNEL


class Watch:
    """A flag that a change sets, and that its reader waits for and clears."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Sets the flag."""
        self._event.set()

    async def changed(self, timeout_s: float | None = None) -> bool:
        """Waits for a change since the last call, or since the watch began; False after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Listener:
    """`async with Listener(url) as listener`: watches of the queue in the database at `url`.

    Notifications are missed while the connection is lost: after each connection all watches are woken, to look again.
    """

    def __init__(self, url: str) -> None:
        self._notifications = NotificationListener(
            url,
            (VIDEOS_CHANNEL, WORK_CHANNEL),
            on_notification=self._wake,
            on_connection=self._wake_all,
        )
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self._workers: set[tuple[frozenset[str], Watch]] = set()
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Listener:
        await self._running.enter_async_context(self._notifications.running())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._running.aclose()

    @property
    def is_connected(self) -> bool:
        """True while notifications arrive."""
        return self._notifications.is_connected

    @asynccontextmanager
    async def watching(self, generation_id: str) -> AsyncIterator[Watch]:
        """A watch of one order: read the order after this began, and again whenever the watch has `changed`."""
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

        An order that is delayed before its retry becomes claimable without a notification: look again every few
        seconds anyway.
        """
        entry = (frozenset(kinds), Watch())
        self._workers.add(entry)
        try:
            yield entry[1]
        finally:
            self._workers.discard(entry)

    async def work(self, *kinds: str, timeout_s: float | None = None) -> bool:
        """Waits for work that appears after this call; a loop uses `working` instead, which misses none."""
        with self.working(*kinds) as watch:
            return await watch.changed(timeout_s)

    def _wake(self, channel: str, payload: str) -> None:
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
