"""Generator replicas: draw the orders of clips, decode them and make their files.

Their work is kept in the database and the object store, so that any of them may die at any time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.background import SupervisedTask, cancel_and_wait
from deployments.clients.text_encoder_client import BACKGROUND, TextEncoderClient
from deployments.observability import video_metrics
from deployments.settings import ServeSettings

if TYPE_CHECKING:
    from deployments.workers.clip_worker import ClipWorker
    from deployments.workers.protocols import Renderer
    from gamegen.service.orders.queue import VideoQueue

logger = logging.getLogger("ray.serve")

_MAX_CONNECTIONS = 4
_STATS_EVERY_S = 1.0


@serve.deployment(name="Generator")
class GeneratorDeployment:
    """Draws orders in batches."""

    def __init__(
        self, settings: ServeSettings, database_url: str, objects_url: str, text_encoder: DeploymentHandle
    ) -> None:
        os.nice(settings.generator.niceness)
        video_metrics.begin_generator()
        self._settings = settings
        self._database_url = database_url
        self._objects_url = objects_url
        self._text_encoder = TextEncoderClient(text_encoder, BACKGROUND)
        self._name = f"generator-{serve.get_replica_context().replica_tag}"
        self._stats = {"waiting": 0.0, "oldest_s": 0.0, "held": 0.0}
        self._task = SupervisedTask(self._run)

    async def check_health(self) -> None:
        """Serve calls this as long as the replica is in use."""
        self._task.ensure_running()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Statistics for `deployments.autoscaling.clip_policy`."""
        return self._stats

    async def __del__(self) -> None:
        """Serve calls this when the replica ends: its orders go back into the queue."""
        await self._task.stop()

    async def _run(self) -> None:
        from deployments.workers.clip_worker import ClipWorker
        from deployments.workers.finishing import ClipFinisher
        from gamegen.provenance.certificates import signer_from_environment
        from gamegen.service.database.connection import connect
        from gamegen.service.orders.listen import Listener
        from gamegen.service.orders.queue import VideoQueue
        from gamegen.service.safety.checks import SafetyChecks
        from gamegen.storage.encryption import open_store

        settings = self._settings
        async with AsyncExitStack() as stack:
            engine = connect(self._database_url, _MAX_CONNECTIONS)
            stack.push_async_callback(engine.dispose)
            queue = VideoQueue(engine, settings.videos.queue)
            listener = await stack.enter_async_context(Listener(self._database_url))
            store = open_store(self._objects_url)
            finisher = ClipFinisher(
                queue=queue,
                store=store,
                checks=SafetyChecks(settings.videos.safety),
                signer=signer_from_environment(),
                # Beside the drawing thread, so that a clip is decoded while the next batch is drawn.
                decoding_thread=_compute_thread("decoding", settings.generator.threads, stack),
            )
            worker = ClipWorker(
                name=self._name,
                node=_node_id(),
                queue=queue,
                listener=listener,
                store=store,
                load_renderer=lambda: _load_renderer(settings),
                encode_text=self._text_encoder.encode,
                finisher=finisher,
                settings=settings.generator.work,
                drawing_thread=_compute_thread("drawing", settings.generator.threads, stack),
            )
            stats = asyncio.create_task(self._record_stats(queue, worker))
            try:
                await worker.run()
            finally:
                await cancel_and_wait(stats)

    async def _record_stats(self, queue: VideoQueue, worker: ClipWorker) -> None:
        while True:
            try:
                video_metrics.HELD.set(worker.num_held)
                stats = await queue.stats()
                self._stats = {
                    "waiting": float(sum(tier.queued for tier in stats.tiers.values())),
                    "oldest_s": max((tier.oldest_s for tier in stats.tiers.values()), default=0.0),
                    "held": float(worker.num_held),
                }
            # The number of replicas does not change until the database is back.
            except Exception as error:
                logger.warning("the queue's length is not known: %s", error)
            await asyncio.sleep(_STATS_EVERY_S)


def _compute_thread(name: str, num_threads: int, stack: AsyncExitStack) -> ThreadPoolExecutor:
    """One thread in which PyTorch computes with `num_threads` of its own; shut down with `stack`."""
    import torch

    thread = ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(num_threads,))
    stack.callback(thread.shutdown, wait=False)
    return thread


def _load_renderer(settings: ServeSettings) -> Renderer:
    from gamegen.engine.variants import Variant
    from gamegen.generation.blank import BlankRenderer
    from gamegen.generation.renderer import ClipConfig, ClipRenderer

    if settings.draws_blanks:
        return BlankRenderer(Variant.parse(settings.model).config().sampling)
    return ClipRenderer.load(settings.model, config=ClipConfig(rows=settings.generator.rows or None))


def _node_id() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()
