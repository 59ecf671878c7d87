"""Everything about orders besides drawing them: intake, expired leases, retention, metrics of the queue, webhooks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from deployments.background import cancel_and_wait
from deployments.observability import video_metrics
from deployments.workers.intake import OrderIntake
from deployments.workers.leases import DATABASE_ERRORS, first_line
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.retention.retention import Retention
from gamegen.service.webhooks.sender import WebhookSender
from gamegen.storage.interface import StorageError

logger = logging.getLogger("ray.serve")

_REAP_EVERY_S = 1.0
_RETAIN_EVERY_S = 60.0
_SWEEP_EVERY_RUNS = 24 * 60
_COUNT_EVERY_S = 5.0
_RESTART_S = 1.0


class Housekeeping:
    """Runs all of this work side by side; any number of instances share one database."""

    def __init__(
        self, *, intake: OrderIntake, queue: VideoQueue, retention: Retention, sender: WebhookSender
    ) -> None:
        self._intake = intake
        self._queue = queue
        self._retention = retention
        self._sender = sender

    async def run(self) -> None:
        """Works until it is cancelled; work that fails is restarted and holds up no other."""
        works = (self._intake.run, self._reap, self._retain, self._count, self._sender.run)
        tasks = [asyncio.create_task(_restarted(work)) for work in works]
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancel_and_wait(*tasks)

    async def _reap(self) -> None:
        """Takes orders back from workers whose leases have expired."""
        while True:
            if taken := await self._queue.reap():
                logger.warning("%d orders of lost workers go back into the queue", taken)
                video_metrics.TAKEN_OVER.add(taken)
            await asyncio.sleep(_REAP_EVERY_S)

    async def _count(self) -> None:
        """Records the length of the queue."""
        while True:
            video_metrics.record_queue(await self._queue.stats())
            await asyncio.sleep(_COUNT_EVERY_S)

    async def _retain(self) -> None:
        """Deletes what has been kept for long enough; once a day lists the whole store for orphans."""
        num_runs = 0
        while True:
            await asyncio.sleep(_RETAIN_EVERY_S)
            num_runs += 1
            await self._retention.run(is_sweeping=num_runs % _SWEEP_EVERY_RUNS == 0)


async def _restarted(work: Callable[[], Awaitable[None]]) -> None:
    """Runs work again whenever it has ended or failed."""
    while True:
        try:
            await work()
        except (StorageError, *DATABASE_ERRORS) as error:
            logger.warning("background work waits and starts again: %s", first_line(error))
        except Exception:
            logger.exception("background work starts again")
        await asyncio.sleep(_RESTART_S)
