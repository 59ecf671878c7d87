"""One session's world as the ingress sees it: stepped where it is held, brought back where it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np
from ray.serve.handle import DeploymentHandle

from deployments.messages import Chunk, Instruction, Missing, Opened, OpenRequest, Refusal, StepRequest

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0


class WorldRefusedError(ValueError):
    """The world cannot begin like this; the message says why."""


class WorldLostError(RuntimeError):
    """No replica took the session over in time."""


class WorldClient:
    """Steps a session and keeps what it takes to rebuild it elsewhere.

    That is the last snapshot and the steps since. A chunk's noise depends only on the seed and the chunk's
    number, so replaying those steps on another replica leads to the same world.
    """

    def __init__(
        self,
        handle: DeploymentHandle,
        opening: OpenRequest,
        snapshot_every_chunks: int,
        recovery_timeout_s: float,
    ) -> None:
        self._handle = handle.options(session_id=opening.session_id)
        self._opening = opening
        self._snapshot_every_chunks = snapshot_every_chunks
        self._recovery_timeout_s = recovery_timeout_s
        self._snapshot: bytes | None = None
        self._since_snapshot: list[StepRequest] = []
        self.version = 0
        self.num_recoveries = 0
        self.is_recovering = False
        self.on_recovering: Callable[[bool], Awaitable[None]] = _ignore
        self.latent: np.ndarray | None = None

    async def open(self, timeout_s: float) -> None:
        """Begins the world; raises WorldRefusedError, or TimeoutError when no replica answers."""
        async with asyncio.timeout(timeout_s):
            opened = await self._handle.open.remote(self._opening)
        if isinstance(opened, Refusal):
            raise WorldRefusedError(opened.message)
        assert isinstance(opened, Opened)
        self.version, self.latent = opened.version, opened.latent

    async def step(self, operations: np.ndarray, instruction: Instruction | None) -> Chunk:
        """Draws the next chunk; raises WorldLostError when the session could not be brought back in time."""
        wants_snapshot = (self.version + 1) % self._snapshot_every_chunks == 0
        request = StepRequest(self._opening.session_id, self.version, operations, instruction, wants_snapshot)
        chunk = await self._step_somewhere(request)
        self.version, self.latent = chunk.version, chunk.latent
        if chunk.snapshot is None:
            self._since_snapshot.append(request)
        else:
            self._snapshot, self._since_snapshot = chunk.snapshot, []
        return chunk

    async def close(self) -> None:
        """Frees the session's slot; an unreachable replica frees it by itself when it needs room."""
        try:
            async with asyncio.timeout(2):
                await self._handle.close.remote(self._opening.session_id)
        except Exception:
            return

    async def _step_somewhere(self, request: StepRequest) -> Chunk:
        give_up_at = time.monotonic() + self._recovery_timeout_s
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._recovery_timeout_s):
                    reply = await self._handle.step.remote(request)
                    if isinstance(reply, Chunk):
                        await self._note_recovering(False)
                        return reply
                    await self._note_recovering(True)
                    await self._rebuild()
            # Whatever a dying replica raises (actor, transport or router errors), the answer is the same.
            except Exception as error:
                await self._note_recovering(True)
                if time.monotonic() + delay_s > give_up_at:
                    raise WorldLostError("the world's replica was lost and none took it over") from error
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            if time.monotonic() > give_up_at:
                raise WorldLostError("the world's replicas keep losing this session")

    async def _note_recovering(self, recovering: bool) -> None:
        if recovering != self.is_recovering:
            self.is_recovering = recovering
            self.num_recoveries += recovering
            await self.on_recovering(recovering)

    async def _rebuild(self) -> None:
        if self._snapshot is None:
            await self._handle.open.remote(self._opening)
        else:
            await self._handle.restore.remote(self._opening.session_id, self._snapshot)
        for past in self._since_snapshot:
            reply = await self._handle.step.remote(past)
            if isinstance(reply, Missing):
                raise RuntimeError("the session moved again while it was replayed")


async def _ignore(_recovering: bool) -> None:
    """Tells nobody."""
