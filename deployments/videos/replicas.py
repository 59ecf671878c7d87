"""The clip service's replicas: generators, which draw, and clerks, which do the rest.

Both keep their work in the database and the object store, so that any of them may die at any time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.settings import ServeSettings
from deployments.tasks import end
from deployments.videos import metrics

if TYPE_CHECKING:
    from deployments.videos.renders import Renders

logger = logging.getLogger("ray.serve")

_POOL = 4


class _Beside:
    """Work that runs beside a replica's calls from its first health check on, and again should it end."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    def keep_running(self) -> None:
        if self._task is None or self._task.done():
            if self._task is not None and not self._task.cancelled() and (error := self._task.exception()):
                logger.error("the worker ended and begins again", exc_info=error)
            self._task = asyncio.create_task(self._work())

    async def end(self) -> None:
        if self._task is not None:
            await end(self._task)


@serve.deployment(name="Generator")
class GeneratorDeployment:
    """Draws orders in batches."""

    def __init__(
        self,
        settings: ServeSettings,
        database_url: str,
        objects_url: str,
        text_encoder: DeploymentHandle,
        decoder: DeploymentHandle,
    ) -> None:
        self._beside = _Beside(self._run)
        os.nice(settings.generator.niceness)
        metrics.begin_generator()
        self._settings, self._database_url, self._objects_url = settings, database_url, objects_url
        self._text_encoder, self._decoder = text_encoder, decoder
        self._name = f"generator-{serve.get_replica_context().replica_tag}"
        self._stats = {"waiting": 0.0, "oldest_s": 0.0, "held": 0.0}

    async def check_health(self) -> None:
        """Serve asks as long as this replica is in use."""
        self._beside.keep_running()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `clip_policy` decides by."""
        return self._stats

    async def __del__(self) -> None:
        """Serve calls this when the replica ends: what it has goes back into the queue."""
        await self._beside.end()

    async def _run(self) -> None:
        import torch

        from deployments.videos.finishing import Finishing
        from deployments.videos.handles import HandleDecoder, HandleEncoder
        from deployments.videos.worker import ClipWorker
        from gamegen.database.connection import connect
        from gamegen.provenance.certificates import signer_from_environment
        from gamegen.safety.checks import SafetyChecks
        from gamegen.storage.objects import open_store
        from gamegen.videos.listen import Listener
        from gamegen.videos.queue import VideoQueue

        settings, threads = self._settings, self._settings.generator.threads
        async with AsyncExitStack() as stack:
            engine = connect(self._database_url, _POOL)
            stack.push_async_callback(engine.dispose)
            queue = VideoQueue(engine, settings.videos.queue)
            listener = await stack.enter_async_context(Listener(self._database_url))
            store = open_store(self._objects_url)
            thread = ThreadPoolExecutor(
                1, "generator", initializer=torch.set_num_threads, initargs=(threads,)
            )
            stack.callback(thread.shutdown, wait=False)
            finishing = Finishing(
                queue,
                store,
                HandleDecoder(self._decoder),
                SafetyChecks(settings.videos.safety),
                signer_from_environment(),
            )
            worker = ClipWorker(
                self._name,
                _node(),
                queue,
                listener,
                store,
                lambda: _renderer(settings),
                HandleEncoder(self._text_encoder),
                finishing,
                settings.generator.work,
                thread,
            )
            watching = asyncio.create_task(self._watch(queue, worker))
            try:
                await worker.run()
            finally:
                await end(watching)

    async def _watch(self, queue: Any, worker: Any) -> None:
        while True:
            try:
                metrics.HELD.set(worker.num_held)
                stats = await queue.stats()
                self._stats = {
                    "waiting": float(sum(tier.queued for tier in stats.tiers.values())),
                    "oldest_s": max((tier.oldest_s for tier in stats.tiers.values()), default=0.0),
                    "held": float(worker.num_held),
                }
            # Replicas stay as many as they are until the database is back.
            except Exception as error:
                logger.warning("the queue's length is not known: %s", error)
            await asyncio.sleep(1)


@serve.deployment(name="Clerk")
class ClerkDeployment:
    """Judges and encodes words, takes back what lost workers had, removes old files and sends webhooks."""

    def __init__(
        self, settings: ServeSettings, database_url: str, objects_url: str, text_encoder: DeploymentHandle
    ) -> None:
        self._beside = _Beside(self._run)
        self._settings, self._database_url, self._objects_url = settings, database_url, objects_url
        self._text_encoder = text_encoder
        metrics.begin_clerk()
        self._name = f"clerk-{serve.get_replica_context().replica_tag}"

    async def check_health(self) -> None:
        """Serve asks as long as this replica is in use."""
        self._beside.keep_running()

    async def __del__(self) -> None:
        """Serve calls this when the replica ends."""
        await self._beside.end()

    async def _run(self) -> None:
        from deployments.videos.clerk import Clerk
        from deployments.videos.handles import HandleEncoder
        from gamegen.database.connection import connect
        from gamegen.retention.retention import Retention
        from gamegen.safety.checks import SafetyChecks
        from gamegen.storage.objects import open_store
        from gamegen.videos.listen import Listener
        from gamegen.videos.queue import VideoQueue
        from gamegen.webhooks.sender import Sender

        settings = self._settings.videos
        async with AsyncExitStack() as stack:
            engine = connect(self._database_url, _POOL)
            stack.push_async_callback(engine.dispose)
            listener = await stack.enter_async_context(Listener(self._database_url))
            store = open_store(self._objects_url)
            clerk = Clerk(
                self._name,
                VideoQueue(engine, settings.queue),
                listener,
                store,
                HandleEncoder(self._text_encoder),
                SafetyChecks(settings.safety),
                Retention(engine, store, settings.retention),
                Sender(engine, settings.webhooks, told=lambda state: metrics.WEBHOOKS.add(tag=state)),
                self._settings.clerk.lease_s,
            )
            await clerk.run()


def _renderer(settings: ServeSettings) -> Renders:
    from gamegen.clips.blank import BlankRenderer
    from gamegen.clips.renderer import ClipConfig, ClipRenderer
    from gamegen.models.variants import Variant

    if settings.draws_blanks:
        return BlankRenderer(Variant.parse(settings.model).config().sampling)
    return ClipRenderer.load(settings.model, config=ClipConfig(rows=settings.generator.rows or None))


def _node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()
