"""Background tasks: cancelling them, finishing them despite cancellation, and keeping them running."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

logger = logging.getLogger("ray.serve")

Result = TypeVar("Result")
_CANCEL_AGAIN_S = 2.0


async def cancel_and_wait(*tasks: asyncio.Task) -> None:
    """Cancels tasks until they have ended; what they raise is left in them.

    Once is not always enough. In Python 3.11 `asyncio.wait_for`, through which the store's client writes, returns its
    result where a cancellation comes in the same moment, and a session would be played on for nobody.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)


async def run_to_completion(work: Coroutine[Any, Any, Result]) -> Result:
    """Completes work that must not be left half done, however often its caller is cancelled, and only then raises."""
    task = asyncio.create_task(work)
    is_cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            is_cancelled = True
        except Exception:
            break
    if is_cancelled:
        raise asyncio.CancelledError
    return task.result()


class SupervisedTask:
    """Work that runs beside a replica's calls, and is restarted at the next health check when it has ended."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    def ensure_running(self) -> None:
        """Starts the work unless it runs; logs the error that ended it before."""
        if self._task is not None:
            if not self._task.done():
                return
            if not self._task.cancelled() and (error := self._task.exception()):
                logger.error("background work ended and starts again", exc_info=error)
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Cancels the work and waits for its end."""
        if self._task is not None:
            await cancel_and_wait(self._task)
