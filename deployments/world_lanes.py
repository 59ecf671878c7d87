"""The ways from an ingress to the world replicas."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

from ray.serve.handle import DeploymentHandle

from deployments.messages import LatestRequest, OpenRequest, StepRequest
from gamegen.grouping import GroupedCalls


class WorldLane:
    """Sessions that one world replica holds, whichever it is at the time: their steps travel together.

    Replies are the replica's, see `WorldDeployment`; whatever a dying one raises is raised.
    """

    def __init__(self, handle: DeploymentHandle, most: int) -> None:
        self._handle = handle
        self._steps = GroupedCalls(self._call, most)

    async def step(self, request: StepRequest) -> object:
        """Draws a session's next chunk."""
        return await self._steps.answer(request)

    async def open(self, request: OpenRequest) -> object:
        """Begins a session."""
        return await self._handle.open.remote(request)

    async def latest(self, request: LatestRequest) -> object:
        """Asks for a session at a version."""
        return await self._handle.latest.remote(request)

    async def restore(self, session_id: str, fence: int, snapshot: bytes) -> object:
        """Brings a session back from its snapshot."""
        return await self._handle.restore.remote(session_id, fence, snapshot)

    async def close(self, session_id: str) -> None:
        """Forgets a session."""
        await self._handle.close.remote(session_id)

    async def _call(self, requests: list[StepRequest]) -> AsyncIterator[list[object]]:
        yield await self._handle.steps.remote(requests)


class WorldLanes:
    """A session's lane depends on its id alone, so that every ingress finds it on the same replica."""

    def __init__(self, handle: DeploymentHandle, num_lanes: int, most: int) -> None:
        self._lanes = [
            WorldLane(handle.options(session_id=f"lane-{number}"), most) for number in range(num_lanes)
        ]

    def of(self, session_id: str) -> WorldLane:
        """The lane of a session."""
        return self._lanes[zlib.crc32(session_id.encode()) % len(self._lanes)]
