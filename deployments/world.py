"""World replicas: hold sessions and draw their chunks."""

from __future__ import annotations

from typing import Any

from ray import serve

from deployments.messages import Chunk, Missing, Opened, OpenRequest, Refusal, StepRequest
from deployments.settings import WorldSettings


@serve.deployment(name="World")
class WorldDeployment:
    """One engine loop a replica.

    A session belongs to the replica that the consistent-hash router names for it, but only as a cache: asked
    for a session or version it does not hold, a replica answers `Missing` and the caller restores it from a
    snapshot.
    """

    def __init__(self, model: str, settings: WorldSettings) -> None:
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
        self._facts = {
            "model": model,
            "width": config.width,
            "height": config.height,
            "parameters": sum(parameter_counts(config).values()),
            "steps_per_chunk": config.sampling.num_steps,
            "device": str(loaded.device),
            "card": {name: value for name, value in read_card(variant.model).items() if name != "sha256"},
        }
        engine = WorldEngine(loaded, EngineConfig(settings.slots))
        self._loop = EngineLoop(engine, settings.gather_s, settings.engine_threads)

    async def open(self, request: OpenRequest) -> Opened | Refusal:
        """Begins a session."""
        return await self._loop.open(request)

    async def restore(self, session_id: str, snapshot: bytes) -> None:
        """Takes a session over from a snapshot."""
        await self._loop.restore(session_id, snapshot)

    async def step(self, request: StepRequest) -> Chunk | Missing:
        """Draws a session's next chunk."""
        return await self._loop.step(request)

    async def close(self, session_id: str) -> None:
        """Forgets a session."""
        await self._loop.close(session_id)

    async def facts(self) -> dict[str, Any]:
        """What is served: the size of its pictures, parameters, device and the model's card."""
        return {**self._facts, "sessions_held": self._loop.num_sessions}
