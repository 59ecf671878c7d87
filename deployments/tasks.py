"""Ending what runs beside."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
_AGAIN_S = 2.0


async def end(*tasks: asyncio.Task) -> None:
    """Cancels tasks until they have ended; what they raise is left in them.

    Once is not always enough. In Python 3.11 `asyncio.wait_for`, through which the store's client writes, returns its
    result where a cancellation comes in the same moment, and a session would be played on for nobody.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_S)


async def to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Does all of what must not be left half done, however often its caller is cancelled meanwhile, and then is."""
    task, is_cancelled = asyncio.create_task(work), False
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
