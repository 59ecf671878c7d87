"""World replicas: hold sessions and draw their chunks."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import numpy as np
from ray import serve
from valkey.exceptions import ValkeyError

from deployments import metrics
from deployments.admission import OfferedPlaces
from deployments.messages import (
    Chunk,
    LatestRequest,
    Missing,
    Moved,
    Opened,
    OpenRequest,
    Refusal,
    StepRequest,
)
from deployments.session_store import SessionStore, StoreLimits
from deployments.settings import WorldSettings
from gamegen.session_log import VideoPrompt

logger = logging.getLogger("ray.serve")

_OFFER_LASTS_S = 10.0
"""Several health checks, of which a busy machine may miss some."""


@serve.deployment(name="World")
class WorldDeployment:
    """One engine loop a replica.

    A session belongs to the replica that the consistent-hash router names for it, but only as a cache: asked
    for a session or version it does not hold, a replica answers `Missing` and the caller restores it from a
    snapshot.
    """

    def __init__(self, model: str, settings: WorldSettings, store_url: str) -> None:
        import torch

        from deployments.engine_loop import EngineLoop
        from gamegen.models.checkpoint import read_card
        from gamegen.models.counts import parameter_counts
        from gamegen.models.variants import Variant
        from gamegen.world import EngineConfig, WorldEngine

        # What is compiled below takes its number from here; the thread that uses it sets its own.
        torch.set_num_threads(settings.engine_threads)
        variant = Variant.parse(model)
        loaded = variant.load()
        config = loaded.config
        engine = WorldEngine(loaded, EngineConfig(settings.slots))
        self._facts = {
            "model": model,
            "width": config.width,
            "height": config.height,
            "parameters": sum(parameter_counts(config).values()),
            "steps_per_chunk": config.sampling.num_steps,
            "sampling": dataclasses.asdict(config.sampling),
            "remembered_chunks": engine.history,
            "follows_video_prompts": engine.sees_video,
            "device": str(loaded.device),
            "card": {name: value for name, value in read_card(variant.model).items() if name != "sha256"},
        }
        self._places, self._queued = OfferedPlaces(settings.slots, settings.most_late_share), 0
        self._store = SessionStore(store_url, StoreLimits(0))
        self._name = serve.get_replica_context().replica_tag
        self._loop = EngineLoop(engine, settings.gather_s, settings.engine_threads)

    async def open(self, request: OpenRequest) -> Opened | Refusal | Moved:
        """Begins a session."""
        return await self._loop.open(request)

    async def check_health(self) -> None:
        """Serve asks every second as long as this replica is in use: its places are offered that long."""
        await self._offer()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `world_policy` decides by; Serve asks often."""
        return {
            "active": self._loop.num_active,
            "queued": self._queued,
            "late": self._loop.lateness.share(),
            "carried": self._places.carried,
        }

    async def restore(self, session_id: str, fence: int, snapshot: bytes) -> Opened | Moved:
        """Takes a session over from a snapshot."""
        return await self._loop.restore(session_id, fence, snapshot)

    async def latest(self, request: LatestRequest) -> Opened | Missing | Moved:
        """A session that is held here, at the version asked for."""
        return await self._loop.latest(request)

    async def encode_video(self, prompt: VideoPrompt) -> np.ndarray | Refusal:
        """A video prompt's latents, for `Follow`."""
        return await self._loop.encode_video(prompt)

    async def steps(self, requests: list[StepRequest]) -> list[Chunk | Missing | Moved | Refusal]:
        """Draws the next chunk of each of several sessions."""
        return await asyncio.gather(*(self._loop.step(request) for request in requests))

    async def close(self, session_id: str) -> None:
        """Forgets a session."""
        await self._loop.close(session_id)

    async def facts(self) -> dict[str, Any]:
        """What is served: the size of its pictures, parameters, device and the model's card."""
        await self._offer()
        return {**self._facts, "sessions_held": self._loop.num_sessions}

    async def _offer(self) -> None:
        places = self._places.review(self._loop.lateness, self._loop.num_active)
        metrics.PLACES.set(places)
        try:
            await self._store.offer_places(self._name, places, _OFFER_LASTS_S)
            self._queued = (await self._store.counts())["queued"]
        # The worlds held here can be played on without the store.
        except (ValkeyError, OSError) as error:
            logger.warning("the session store does not answer: %s", error)
