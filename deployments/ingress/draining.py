"""Detection that Serve drains an ingress replica: its health checks stop, which is the only sign."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ray import serve

_MISSED_CHECKS = 3
_CONTROLLER_TIMEOUT_S = 3.0


class DrainWatch:
    """Calls `on_draining` once health checks stay away although the controller answers.

    A lost controller drains no replica, so play goes on without health checks. A controller that answers after checks
    were missed may have just come back: it gets the same time again for a check.
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
        self._answering_since_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_draining = False

    def record_check(self) -> None:
        """Notes a health check; the first call starts the watch in the running event loop."""
        self._checked_s = time.monotonic()
        self.is_draining = False
        if self._task is None:
            self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            await self.review()

    async def review(self) -> None:
        """Decides once whether the replica is drained, and if so calls `on_draining`; the watch does it each period."""
        patience_s = _MISSED_CHECKS * self._period_s
        is_checked = time.monotonic() - self._checked_s < patience_s
        if self.is_draining or is_checked or not await self._controller_answers():
            self._answering_since_s = None
            return
        now = time.monotonic()
        if self._answering_since_s is None:
            self._answering_since_s = now
        if now - self._answering_since_s >= patience_s and now - self._checked_s >= patience_s:
            self.is_draining = True
            await self._on_draining()

    async def _controller_answers(self) -> bool:
        # While the cluster's head is away the call hangs: it is not repeated in yet another thread.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(self._ask_controller))
        try:
            async with asyncio.timeout(_CONTROLLER_TIMEOUT_S):
                await asyncio.shield(self._asking)
        # Any error means that the controller did not answer.
        except Exception:
            return False
        return True
