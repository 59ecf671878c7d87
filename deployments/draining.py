"""How an ingress replica learns that it is to go: Serve stops asking for its health, and tells it nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ray import serve

_MISSED_CHECKS = 3
_CONTROLLER_TIMEOUT_S = 3.0


class DrainWatch:
    """Calls `on_draining` once health checks stay away although the controller is there.

    While the controller itself is lost nobody drains anything, and everybody goes on.
    """

    def __init__(self, period_s: float, on_draining: Callable[[], Awaitable[None]]) -> None:
        self._period_s = period_s
        self._on_draining = on_draining
        self._checked_s = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self.is_draining = False

    def checked(self) -> None:
        """A health check came."""
        self._checked_s = time.monotonic()
        self.is_draining = False
        if self._task is None:
            self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            away_s = time.monotonic() - self._checked_s
            if self.is_draining or away_s < _MISSED_CHECKS * self._period_s:
                continue
            if await _controller_answers():
                self.is_draining = True
                await self._on_draining()


async def _controller_answers() -> bool:
    try:
        async with asyncio.timeout(_CONTROLLER_TIMEOUT_S):
            await asyncio.to_thread(serve.status)
    # Whatever it raises, it did not answer.
    except Exception:
        return False
    return True
