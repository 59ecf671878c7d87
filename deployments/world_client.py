"""One session's world as the ingress sees it: stepped where it is held, brought back where it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from deployments import metrics
from deployments.messages import (
    Chunk,
    Follow,
    Instruction,
    LatestRequest,
    Missing,
    Moved,
    Opened,
    OpenRequest,
    Refusal,
    StepRequest,
)
from deployments.rebuild_turns import RebuildTurns
from deployments.session_store import SessionMovedError
from deployments.world_lanes import WorldLane

Reply = TypeVar("Reply")

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 0.5


class WorldRefusedError(ValueError):
    """The world cannot begin like this; the message says why."""


class WorldLostError(RuntimeError):
    """No replica took the session over in time."""


@dataclass
class WorldPast:
    """What a world is rebuilt from: its last snapshot, if there is one, and the steps since."""

    snapshot: bytes | None = None
    steps: list[StepRequest] = field(default_factory=list)


class WorldClient:
    """Steps a session and keeps what it takes to rebuild it elsewhere.

    A chunk's noise depends only on the seed and the chunk's number, so replaying the steps since the last snapshot on
    another replica leads to the same world.
    """

    def __init__(
        self,
        lane: WorldLane,
        opening: OpenRequest,
        past: WorldPast,
        version: int,
        snapshot_every_chunks: int,
        recovery_timeout_s: float,
        turns: RebuildTurns,
    ) -> None:
        self._lane = lane
        self._opening = opening
        self._past = past
        self._snapshot_every_chunks = snapshot_every_chunks
        self._recovery_timeout_s = recovery_timeout_s
        self._turns = turns
        self.version = version
        self.num_recoveries = 0
        self.is_recovering = False
        self.on_recovering: Callable[[bool], Awaitable[None]] = _ignore
        self.latent: np.ndarray | None = None

    async def begin(self) -> None:
        """Begins the world, or finds it or brings it back at its version.

        Raises WorldRefusedError, WorldLostError when no replica answers in time, or SessionMovedError.
        """
        is_new = self._past.snapshot is None and not self._past.steps
        opened = await self._somewhere(self._open if is_new else self._find)
        self.version, self.latent = opened.version, opened.latent

    async def step(
        self,
        operations: np.ndarray,
        instruction: Instruction | None,
        was_late: bool = False,
        follow: Follow | None = None,
    ) -> Chunk:
        """Draws the next chunk; see `StepRequest`.

        Raises WorldLostError when the session could not be brought back in time, WorldRefusedError, or
        SessionMovedError.
        """
        wants_snapshot = (self.version + 1) % self._snapshot_every_chunks == 0
        request = StepRequest(
            self._opening.session_id,
            self._opening.fence,
            self.version,
            operations,
            instruction,
            wants_snapshot,
            was_late,
            follow,
        )
        chunk = await self._somewhere(lambda: self._step(request))
        self.version, self.latent = chunk.version, chunk.latent
        if chunk.snapshot is None:
            self._past.steps.append(request)
        else:
            self._past = WorldPast(chunk.snapshot)
        return chunk

    async def close(self) -> None:
        """Frees the session's slot; an unreachable replica frees it by itself when it needs room."""
        try:
            async with asyncio.timeout(2):
                await self._lane.close(self._opening.session_id)
        except Exception:
            return

    async def _somewhere(self, attempt: Callable[[], Awaitable[Reply]]) -> Reply:
        """Tries until a replica has done it."""
        give_up_at = time.monotonic() + self._recovery_timeout_s
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                async with asyncio.timeout(self._recovery_timeout_s):
                    reply = await attempt()
                await self._note_recovering(False)
                return reply
            except (WorldRefusedError, SessionMovedError):
                raise
            # Whatever a dying replica raises (actor, transport or router errors), the answer is the same.
            except Exception as error:
                await self._note_recovering(True)
                if time.monotonic() + delay_s > give_up_at:
                    raise WorldLostError("the world's replica was lost and none took it over") from error
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)

    async def _note_recovering(self, recovering: bool) -> None:
        if recovering != self.is_recovering:
            self.is_recovering = recovering
            self.num_recoveries += recovering
            metrics.RECOVERIES.add(recovering, tag="world_moved")
            await self.on_recovering(recovering)

    async def _step(self, request: StepRequest) -> Chunk:
        reply = await self._lane.step(request)
        if isinstance(reply, Missing):
            await self._note_recovering(True)
            await self._rebuild()
            reply = await self._lane.step(request)
        return self._checked(reply, Chunk)

    async def _open(self) -> Opened:
        return self._checked(await self._lane.open(self._opening), Opened)

    async def _find(self) -> Opened:
        """The world at its version where it still is, or else rebuilt."""
        request = LatestRequest(self._opening.session_id, self._opening.fence, self.version)
        reply = await self._lane.latest(request)
        if isinstance(reply, Missing):
            await self._rebuild()
            reply = await self._lane.latest(request)
        return self._checked(reply, Opened)

    async def _rebuild(self) -> None:
        async with self._turns.one():
            await self._rebuild_now()

    async def _rebuild_now(self) -> None:
        if self._past.snapshot is None:
            await self._open()
        else:
            restored = await self._lane.restore(
                self._opening.session_id, self._opening.fence, self._past.snapshot
            )
            self._checked(restored, Opened)
        for past in self._past.steps:
            self._checked(await self._lane.step(past), Chunk)

    @staticmethod
    def _checked(reply: object, kind: type[Reply]) -> Reply:
        if isinstance(reply, Refusal):
            raise WorldRefusedError(reply.message)
        if isinstance(reply, Moved):
            raise SessionMovedError("another ingress plays this session")
        if not isinstance(reply, kind):
            raise RuntimeError("the session moved again while it was rebuilt")
        return reply


async def _ignore(_recovering: bool) -> None:
    """Tells nobody."""
