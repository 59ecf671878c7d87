"""Worlds are brought back one after the other, so that those who play meanwhile keep their rate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_LONGEST_WAIT_S = 5.0
"""Whoever waited so long goes all the same: the one before may hang on a replica that is gone."""


class RebuildTurns:
    """So many worlds of an ingress replica are brought back at a time.

    When a world replica goes, all that it held are asked for elsewhere at once, and each is a snapshot to restore and
    some chunks to draw again, between those of the players who are there.
    """

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Waits for a turn and has it."""
        has_turn = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT_S):
                has_turn = await self._free.acquire()
        try:
            yield
        finally:
            if has_turn:
                self._free.release()
