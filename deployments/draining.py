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

    While the controller itself is lost nobody drains anything, and everybody goes on. One that answers after checks
    were missed may just have come back, or be slow: it has as long again to ask.
    """

    def __init__(
        self,
        period_s: float,
        on_draining: Callable[[], Awaitable[None]],
        ask_controller: Callable[[], object] = serve.status,
    ) -> None:
        self._period_s = period_s
        self._on_draining = on_draining
        self._ask_controller = ask_controller
        self._asking: asyncio.Task[object] | None = None
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
        patience_s = _MISSED_CHECKS * self._period_s
        there_since_s: float | None = None
        while True:
            await asyncio.sleep(self._period_s)
            if self.is_draining or time.monotonic() - self._checked_s < patience_s:
                there_since_s = None
                continue
            if not await self._controller_answers():
                there_since_s = None
                continue
            now = time.monotonic()
            there_since_s = now if there_since_s is None else there_since_s
            if now - there_since_s >= patience_s and now - self._checked_s >= patience_s:
                self.is_draining = True
                await self._on_draining()

    async def _controller_answers(self) -> bool:
        # While the cluster's head is away the question hangs: it is not asked again in yet another thread.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(self._ask_controller))
        try:
            async with asyncio.timeout(_CONTROLLER_TIMEOUT_S):
                await asyncio.shield(self._asking)
        # Whatever it raises, it did not answer.
        except Exception:
            return False
        return True
