"""Facts about the served model, from the world replicas."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.errors import ApiError

_TIMEOUT_S = 5.0
_RETRY_AFTER_S = 5


class ModelFacts:
    """Asks a world replica for the served model's facts (`WorldDeployment.facts`) and keeps the first answer."""

    def __init__(self, world: DeploymentHandle) -> None:
        self._world = world
        self._facts: dict[str, Any] | None = None

    async def get(self) -> dict[str, Any]:
        """The facts, which never change while the application runs; raises ApiError (503)."""
        if self._facts is None:
            self._facts = await self.ask()
        return self._facts

    async def ask(self) -> dict[str, Any]:
        """The answer of a world replica now; raises ApiError (503) if none answers."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._world.facts.remote()
        # Any failure of the replica, whatever its type, means the same to clients.
        except Exception as error:
            message = "no world replica answers: it is starting, try again in a few seconds"
            raise ApiError(503, "not_ready", message, retry_after_s=_RETRY_AFTER_S) from error
