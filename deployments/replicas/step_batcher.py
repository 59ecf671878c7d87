"""Continuous batching of world steps: sessions that wait at a chunk boundary share the next forward pass.

`serve.batch` cannot do this, since no request can join a running batch and a batch waits for its slowest caller. Here
one loop owns the engine, which runs in a thread of its own, so the replica keeps answering while it draws.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from deployments.observability import play_metrics
from deployments.replicas.capacity import LatenessTracker
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
from gamegen.device import one_thread
from gamegen.engine.engine import WorldEngine
from gamegen.engine.snapshot import WorldSnapshot
from gamegen.engine.video_prompts import read_video_prompt
from gamegen.gallery.opening import read_opening
from gamegen.models.opening import Opening
from gamegen.sessions.log import VideoPrompt

logger = logging.getLogger("ray.serve")

ACTIVE_S = 1.0
"""A session stepped less than this ago is expected to ask again soon."""

_REPLY_S = 0.004
"""Pause in which replies leave this process, before the engine goes on."""

Reply = TypeVar("Reply")
Stepped = Chunk | Missing | Moved | Rejected
_Waiting = tuple[StepRequest, "asyncio.Future[Stepped]"]


class StepBatcher:
    """Owns one `WorldEngine`: batches the steps of its sessions, and opens, restores and closes them.

    Methods return `Missing` for a session or version that is not held here, and `Moved` once a request of a later fence
    has come.
    """

    def __init__(self, engine: WorldEngine, *, gather_s: float, threads: int) -> None:
        play_metrics.begin_world(engine.max_sessions)
        self._engine = engine
        self._gather_s = gather_s
        self._inbox: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._last_used: dict[str, float] = {}
        self._fences: dict[str, int] = {}
        self.lateness = LatenessTracker()
        self._thread = ThreadPoolExecutor(1, "engine", initializer=torch.set_num_threads, initargs=(threads,))
        self._task: asyncio.Task[None] | None = None

    @property
    def num_sessions(self) -> int:
        """Number of sessions in the engine's slots."""
        return len(self._last_used)

    @property
    def num_active(self) -> int:
        """Number of sessions stepped within the last `ACTIVE_S`."""
        now = time.monotonic()
        # Copied at once: the engine's thread enters and drops sessions meanwhile.
        return sum(now - used < ACTIVE_S for used in [*self._last_used.values()])

    async def open(self, request: OpenRequest) -> Opened | Rejected | Moved:
        """Opens a session; rejects first frames that cannot be read."""
        opening = None
        if request.first_frames is not None:
            try:
                # Not in the engine's thread, where all sessions would wait for it.
                opening = await asyncio.to_thread(self._opening, request.first_frames)
            except ValueError as error:
                return Rejected(str(error))
        return await self._in_thread(lambda: self._open(request, opening))

    async def restore(self, session_id: str, fence: int, snapshot: bytes) -> Opened | Moved:
        """Takes over a session from its snapshot."""
        return await self._in_thread(lambda: self._restore(session_id, fence, snapshot))

    async def latest(self, request: LatestRequest) -> Opened | Missing | Moved:
        """The state of a session that is held here at the version asked for."""
        return await self._in_thread(lambda: self._latest(request))

    async def close(self, session_id: str) -> None:
        """Forgets a session."""
        await self._in_thread(lambda: self._close(session_id))

    async def step(self, request: StepRequest) -> Stepped:
        """Draws the next chunk of a session, in one pass with the others that wait."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        future: asyncio.Future[Stepped] = asyncio.get_running_loop().create_future()
        self._inbox.append((request, future))
        self._wake.set()
        return await future

    async def _in_thread(self, work: Callable[[], Reply]) -> Reply:
        reply = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        play_metrics.SLOTS_HELD.set(len(self._last_used))
        return reply

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._inbox:
                await self._gather()
                await self._step_batch(self._take_batch())

    async def _gather(self) -> None:
        """Waits a moment for the sessions that are about to ask, so that they share this pass."""
        if len(self._inbox) < self.num_active:
            await asyncio.sleep(self._gather_s)

    def _take_batch(self) -> list[_Waiting]:
        """Takes one request of each session; a second one of a session stays for the next pass."""
        batch: dict[str, _Waiting] = {}
        later: list[_Waiting] = []
        for request, future in self._inbox:
            if future.cancelled():
                continue
            if request.session_id in batch:
                later.append((request, future))
            else:
                batch[request.session_id] = (request, future)
        self._inbox = later
        return list(batch.values())

    async def _step_batch(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        replies: list[Stepped] = []
        try:
            replies = await self._in_thread(lambda: self._step([request for request, _ in batch]))
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), reply in zip(batch, replies, strict=True):
            if not future.done():
                future.set_result(reply)
        if not self._inbox:
            # Python runs one thread at a time: the replies would wait for the engine's.
            await asyncio.sleep(_REPLY_S)
        try:
            # The chunk is on its way to the decoder meanwhile.
            await self._in_thread(self._engine.commit)
        except Exception:
            logger.exception("sessions were dropped: their chunk could not be committed to the caches")

    async def encode_video(self, prompt: VideoPrompt) -> np.ndarray | Rejected:
        """A video prompt's latents, float16 `(T, C, h, w)`, for `Follow`; rejects files that cannot be read or used."""
        try:
            return await asyncio.to_thread(self._video_latents, prompt)
        except ValueError as error:
            return Rejected(str(error))

    @one_thread()
    def _video_latents(self, prompt: VideoPrompt) -> np.ndarray:
        self._engine.check_sees_video()
        return read_video_prompt(self._engine.model, prompt, self._engine.size).half().numpy()

    @one_thread()
    def _opening(self, file: bytes) -> Opening:
        return read_opening(file, self._engine.model, self._engine.size, self._engine.history)

    # The methods below run in the engine's thread.

    def _step(self, requests: list[StepRequest]) -> list[Stepped]:
        moved = {r.session_id for r in requests if self._is_moved(r.session_id, r.fence)}
        ready = {
            r.session_id: r
            for r in requests
            if r.session_id not in moved and self._engine.version(r.session_id) == r.version
        }
        # Of the worlds as they are: their last chunk is decoded by now, the next one will not be when it is sent.
        snapshots = {
            sid: self._engine.snapshot(sid).to_bytes() for sid, r in ready.items() if r.wants_snapshot
        }
        rejected: dict[str, Rejected] = {}
        for request in [*ready.values()]:
            try:
                self._condition(request)
            except ValueError as error:
                # The others of the batch go on.
                rejected[request.session_id] = Rejected(str(error))
                del ready[request.session_id]
        start = time.perf_counter()
        latents = self._engine.step({sid: r.operations for sid, r in ready.items()}) if ready else {}
        step_ms = 1000 * (time.perf_counter() - start)
        play_metrics.record_step(len(ready), step_ms / 1000)
        self._last_used |= dict.fromkeys(ready, time.monotonic())
        self.lateness.report({sid: request.was_late for sid, request in ready.items()})
        replies: list[Stepped] = []
        for request in requests:
            sid = request.session_id
            if sid in moved:
                replies.append(Moved())
                continue
            if sid in rejected:
                replies.append(rejected[sid])
                continue
            if sid not in ready:
                replies.append(Missing(self._engine.version(sid)))
                continue
            reference = self._engine.reference(sid)
            replies.append(
                Chunk(
                    version=request.version + 1,
                    latent=latents[sid],
                    step_ms=step_ms,
                    num_sessions=len(ready),
                    reference=reference and reference.arrays(),
                    snapshot=snapshots.get(sid),
                )
            )
        return replies

    def _condition(self, request: StepRequest) -> None:
        """Applies a step's instruction and video prompt; raises ValueError for one that the model does not support."""
        if request.instruction:
            text = request.instruction.text
            states = text.to_states() if text else None
            self._engine.instruct(request.session_id, states, request.instruction.blend_chunks)
        if request.follow:
            latents = request.follow.latents
            prompt = None if latents is None else torch.from_numpy(latents.copy())
            self._engine.prompt_video(request.session_id, prompt)

    def _is_moved(self, session_id: str, fence: int) -> bool:
        """True if a later owner has sent a request already; otherwise notes this owner of a session that is held."""
        if fence < self._fences.get(session_id, fence):
            return True
        if session_id in self._last_used:
            self._fences[session_id] = fence
        return False

    def _open(self, request: OpenRequest, opening: Opening | None) -> Opened | Moved:
        if self._is_moved(request.session_id, request.fence):
            return Moved()
        self._make_room(request.session_id)
        self._engine.open(request.session_id, request.prompt.to_states(), request.seed, opening)
        return self._entered(request.session_id, request.fence)

    def _restore(self, session_id: str, fence: int, snapshot: bytes) -> Opened | Moved:
        if self._is_moved(session_id, fence):
            return Moved()
        self._make_room(session_id)
        self._engine.restore(session_id, WorldSnapshot.from_bytes(snapshot))
        play_metrics.RESTORES.add()
        self.lateness.note_recovery()
        return self._entered(session_id, fence)

    def _latest(self, request: LatestRequest) -> Opened | Missing | Moved:
        if self._is_moved(request.session_id, request.fence):
            return Moved()
        version = self._engine.version(request.session_id)
        return self._opened(request.session_id) if version == request.version else Missing(version)

    def _entered(self, session_id: str, fence: int) -> Opened:
        self._last_used[session_id] = time.monotonic()
        self._fences[session_id] = fence
        return self._opened(session_id)

    def _opened(self, session_id: str) -> Opened:
        snapshot = self._engine.snapshot(session_id)
        chunks = snapshot.chunks
        return Opened(snapshot.version, chunks[-1].latent.half().numpy() if chunks else None)

    def _close(self, session_id: str) -> None:
        self._engine.close(session_id)
        self._last_used.pop(session_id, None)
        self._fences.pop(session_id, None)

    def _make_room(self, session_id: str) -> None:
        """Closes the least recently used session when the slots are full; its ingress can always restore it."""
        self._close(session_id)
        while len(self._last_used) >= self._engine.max_sessions:
            self._close(min(self._last_used, key=self._last_used.__getitem__))
            play_metrics.SWAPS.add()
