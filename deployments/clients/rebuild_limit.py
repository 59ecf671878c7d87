"""A limit on how many lost worlds an ingress replica rebuilds at a time, so that its other players keep their rate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

MAX_WAIT_S = 5.0
"""A rebuild that has waited so long goes ahead: the one before it may hang on a replica that is gone."""


class RebuildLimiter:
    """A semaphore of `max_rebuilds` slots, for which a rebuild waits at most `max_wait_s`.

    When a world replica dies, all of its sessions are rebuilt elsewhere at once. Each rebuild restores a snapshot and
    draws some chunks again, between the chunks of the players who are there.
    """

    def __init__(self, max_rebuilds: int, max_wait_s: float = MAX_WAIT_S) -> None:
        self._slots = asyncio.Semaphore(max_rebuilds)
        self._max_wait_s = max_wait_s

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits for a slot and holds it; without one after `max_wait_s`."""
        has_slot = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._max_wait_s):
                has_slot = await self._slots.acquire()
        try:
            yield
        finally:
            if has_slot:
                self._slots.release()
