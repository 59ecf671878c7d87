"""The client of the world replicas: steps a session where it is held, and rebuilds it where it is not."""

from __future__ import annotations

import asyncio
import dataclasses
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from ray.serve.handle import DeploymentHandle

from deployments.clients.rebuild_limit import RebuildLimiter
from deployments.clients.retry import ReplicaUnavailableError, RetryPolicy
from deployments.observability import play_metrics
from deployments.replicas.messages import (
    Chunk,
    Follow,
    InstructionUpdate,
    LatestRequest,
    Missing,
    Moved,
    Opened,
    OpenRequest,
    Rejected,
    StepRequest,
)
from deployments.sessions.store_errors import SessionMovedError
from gamegen.microbatch import MicroBatcher

Reply = TypeVar("Reply")

_CLOSE_TIMEOUT_S = 2.0
_MIN_ATTEMPTS = 3
"""Attempts that a call to a replica has within the time for recovery, if none of them is answered."""


class WorldRefusedError(ValueError):
    """The world cannot begin or go on like this; the message says why."""


class WorldLostError(ReplicaUnavailableError):
    """No replica took the session over by the deadline."""


class WorldShard:
    """Sessions that one world replica holds, whichever it is at the time; their steps share calls.

    `handle` is the way to that replica: the consistent-hash router chooses it by the shard's name.
    """

    def __init__(self, handle: DeploymentHandle, max_batch: int) -> None:
        self.handle = handle
        self._steps = MicroBatcher(self._call, max_batch)

    async def step(self, request: StepRequest) -> object:
        """Draws a session's next chunk; returns the replica's reply."""
        return await self._steps.submit(request)

    async def _call(self, requests: list[StepRequest]) -> AsyncIterator[list[object]]:
        yield await self.handle.steps.remote(requests)


class WorldShards:
    """All shards. A session's shard depends on its id alone, so every ingress finds it on the same replica."""

    def __init__(self, world: DeploymentHandle, *, num_shards: int, max_batch: int) -> None:
        self._shards = [
            WorldShard(world.options(session_id=f"shard-{number}"), max_batch) for number in range(num_shards)
        ]

    def of(self, session_id: str) -> WorldShard:
        """The shard of a session."""
        return self._shards[zlib.crc32(session_id.encode()) % len(self._shards)]


@dataclass
class WorldPast:
    """A world's last snapshot, if there is one, and the steps since: what it is rebuilt from."""

    snapshot: bytes | None = None
    steps: list[StepRequest] = field(default_factory=list)


class WorldClient:
    """Steps a session and keeps what it takes to rebuild it elsewhere.

    A chunk's noise depends only on the seed and the chunk's number, so replaying the steps since the last snapshot on
    another replica leads to the same world.
    """

    def __init__(
        self,
        shard: WorldShard,
        opening: OpenRequest,
        *,
        past: WorldPast,
        version: int,
        snapshot_every_chunks: int,
        recovery_timeout_s: float,
        rebuild_limiter: RebuildLimiter,
    ) -> None:
        self._shard = shard
        self._opening = opening
        self.past = past
        self._snapshot_every_chunks = snapshot_every_chunks
        self._policy = RetryPolicy(
            deadline_s=recovery_timeout_s, attempt_timeout_s=recovery_timeout_s / _MIN_ATTEMPTS
        )
        self._rebuild_limiter = rebuild_limiter
        self.version = version
        self.num_recoveries = 0
        self.is_recovering = False
        self.on_recovering: Callable[[bool], Awaitable[None]] = _ignore
        self.latent: np.ndarray | None = None

    async def begin(self) -> None:
        """Begins the world, or finds it or rebuilds it at its version.

        Raises WorldRefusedError, WorldLostError when no replica answers in time, or SessionMovedError.
        """
        is_new = self.past.snapshot is None and not self.past.steps
        opened = await self._retried(self._open if is_new else self._find)
        self.version = opened.version
        self.latent = opened.latent

    async def step(
        self,
        operations: np.ndarray,
        instruction: InstructionUpdate | None,
        was_late: bool = False,
        follow: Follow | None = None,
    ) -> Chunk:
        """Draws the next chunk; see `StepRequest`.

        Raises WorldLostError when the session could not be rebuilt in time, WorldRefusedError, or SessionMovedError.
        """
        request = StepRequest(
            session_id=self._opening.session_id,
            fence=self._opening.fence,
            version=self.version,
            operations=operations,
            instruction=instruction,
            wants_snapshot=len(self.past.steps) >= self._snapshot_every_chunks,
            was_late=was_late,
            follow=follow,
        )
        chunk = await self._retried(lambda: self._step(request))
        self.version = chunk.version
        self.latent = chunk.latent
        if chunk.snapshot is not None:
            self.past = WorldPast(chunk.snapshot)
        self.past.steps.append(dataclasses.replace(request, wants_snapshot=False))
        return chunk

    async def close(self) -> None:
        """Frees the session's slot; an unreachable replica frees it by itself when it needs room."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._shard.handle.close.remote(self._opening.session_id)
        except Exception:
            return

    async def _retried(self, call: Callable[[], Awaitable[Reply]]) -> Reply:
        """Repeats a call until a replica has answered; tells of the recovery meanwhile."""
        try:
            reply = await self._policy.run(
                call,
                final_errors=(WorldRefusedError, SessionMovedError),
                on_failure=lambda: self._note_recovering(True),
            )
        except ReplicaUnavailableError as error:
            raise WorldLostError("the world's replica was lost and none took it over") from error
        await self._note_recovering(False)
        return reply

    async def _note_recovering(self, recovering: bool) -> None:
        if recovering != self.is_recovering:
            self.is_recovering = recovering
            self.num_recoveries += recovering
            play_metrics.RECOVERIES.add(recovering, tag="world_moved")
            await self.on_recovering(recovering)

    async def _step(self, request: StepRequest) -> Chunk:
        reply = await self._shard.step(request)
        if isinstance(reply, Missing):
            await self._note_recovering(True)
            await self._rebuild()
            reply = await self._shard.step(request)
        return self._checked(reply, Chunk)

    async def _open(self) -> Opened:
        return self._checked(await self._shard.handle.open.remote(self._opening), Opened)

    async def _find(self) -> Opened:
        """The world at its version where it still is, or else rebuilt."""
        request = LatestRequest(self._opening.session_id, self._opening.fence, self.version)
        reply = await self._shard.handle.latest.remote(request)
        if isinstance(reply, Missing):
            await self._rebuild()
            reply = await self._shard.handle.latest.remote(request)
        return self._checked(reply, Opened)

    async def _rebuild(self) -> None:
        async with self._rebuild_limiter.slot():
            if self.past.snapshot is None:
                await self._open()
            else:
                restored = await self._shard.handle.restore.remote(
                    self._opening.session_id, self._opening.fence, self.past.snapshot
                )
                self._checked(restored, Opened)
            for step in self.past.steps:
                self._checked(await self._shard.step(step), Chunk)

    @staticmethod
    def _checked(reply: object, kind: type[Reply]) -> Reply:
        if isinstance(reply, Rejected):
            raise WorldRefusedError(reply.message)
        if isinstance(reply, Moved):
            raise SessionMovedError("another ingress plays this session")
        if not isinstance(reply, kind):
            raise RuntimeError("the session moved again while it was rebuilt")
        return reply


async def _ignore(_recovering: bool) -> None:
    """Does nothing."""
