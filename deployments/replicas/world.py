"""World replicas: hold sessions and draw their chunks.

A step passes through two layers of batching: `WorldShard` sends the steps that players ask for at the same time in one
call, which saves calls between processes, and `StepBatcher` draws the steps that wait here in one forward pass.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import numpy as np
from ray import serve
from valkey.exceptions import ValkeyError

from deployments.observability import play_metrics
from deployments.replicas.capacity import CapacityLimiter
from deployments.replicas.messages import (
    Chunk,
    LatestRequest,
    Missing,
    Moved,
    Opened,
    OpenRequest,
    Rejected,
    StepRequest,
)
from deployments.sessions.admission_queue import AdmissionQueue
from deployments.sessions.capacity_registry import CapacityRegistry
from deployments.sessions.limits import StoreLimits
from deployments.sessions.valkey_client import connect
from deployments.settings import WorldSettings
from gamegen.gallery.gallery import Gallery
from gamegen.sessions.log import VideoPrompt

logger = logging.getLogger("ray.serve")

_OFFER_LASTS_S = 10.0
"""Lifetime of a registered capacity: several health checks, of which a busy machine may miss some."""


@serve.deployment(name="World")
class WorldDeployment:
    """One engine and its step batcher a replica.

    A session belongs to the replica that the consistent-hash router names for it, but only as a cache: asked
    for a session or version it does not hold, a replica answers `Missing` and the caller restores it from a
    snapshot.
    """

    def __init__(self, model: str, settings: WorldSettings, store_url: str) -> None:
        import torch

        from deployments.replicas.step_batcher import StepBatcher
        from gamegen.engine.engine import EngineConfig, WorldEngine
        from gamegen.engine.variants import Variant
        from gamegen.gallery.opening import find_gallery
        from gamegen.models.checkpoint import count_weights, read_card

        # What is compiled below takes its number from here; the thread that uses it sets its own.
        torch.set_num_threads(settings.engine_threads)
        variant = Variant.parse(model)
        loaded = variant.load()
        config = loaded.config
        engine = WorldEngine(loaded, EngineConfig(settings.slots))
        self._gallery = find_gallery(loaded, variant.model)
        self._facts = {
            "model": model,
            "width": config.width,
            "height": config.height,
            "parameters": sum(count_weights(variant.model).values()),
            "steps_per_chunk": config.sampling.num_steps,
            "sampling": dataclasses.asdict(config.sampling),
            "remembered_chunks": engine.history,
            "follows_video_prompts": engine.sees_video,
            "gallery_starts": len(self._gallery.entries) if self._gallery else 0,
            "device": str(loaded.device),
            "card": {name: value for name, value in read_card(variant.model).items() if name != "sha256"},
        }
        self._limiter = CapacityLimiter(settings.slots, settings.most_late_share)
        self._num_queued = 0
        valkey = connect(store_url)
        self._capacity_registry = CapacityRegistry(valkey)
        self._admission_queue = AdmissionQueue(valkey, StoreLimits(kept_s=0))
        self._name = serve.get_replica_context().replica_tag
        self._batcher = StepBatcher(engine, gather_s=settings.gather_s, threads=settings.engine_threads)

    async def open(self, request: OpenRequest) -> Opened | Rejected | Moved:
        """Opens a session."""
        return await self._batcher.open(request)

    async def check_health(self) -> None:
        """Serve calls this every second as long as the replica is in use; its capacity is registered as long."""
        await self._offer()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Statistics for `deployments.autoscaling.world_policy`."""
        return {
            "active": self._batcher.num_active,
            "queued": self._num_queued,
            "late": self._batcher.lateness.share(),
            "carried": self._limiter.carried,
        }

    async def restore(self, session_id: str, fence: int, snapshot: bytes) -> Opened | Moved:
        """Takes a session over from a snapshot."""
        return await self._batcher.restore(session_id, fence, snapshot)

    async def latest(self, request: LatestRequest) -> Opened | Missing | Moved:
        """The state of a session that is held here at the version asked for."""
        return await self._batcher.latest(request)

    async def encode_video(self, prompt: VideoPrompt) -> np.ndarray | Rejected:
        """A video prompt's latents, for `Follow`."""
        return await self._batcher.encode_video(prompt)

    async def steps(self, requests: list[StepRequest]) -> list[Chunk | Missing | Moved | Rejected]:
        """Draws the next chunk of each of several sessions."""
        return await asyncio.gather(*(self._batcher.step(request) for request in requests))

    async def close(self, session_id: str) -> None:
        """Forgets a session."""
        await self._batcher.close(session_id)

    async def facts(self) -> dict[str, Any]:
        """Facts about the model: frame size, parameters, sampling, device and model card."""
        await self._offer()
        return {**self._facts, "sessions_held": self._batcher.num_sessions}

    async def gallery(self) -> Gallery | None:
        """The recorded starts of the model, which an ingress replica shows and chooses from."""
        return self._gallery

    async def _offer(self) -> None:
        places = self._limiter.review(self._batcher.lateness, self._batcher.num_active)
        play_metrics.PLACES.set(places)
        try:
            await self._capacity_registry.offer(self._name, places, _OFFER_LASTS_S)
            self._num_queued = (await self._admission_queue.counts())["queued"]
        # The worlds held here can be played on without the store.
        except (ValkeyError, OSError) as error:
            logger.warning("the session store does not answer: %s", error)
