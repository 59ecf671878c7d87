"""Takes orders from the queue, draws them together, and sees each through to its files.

One `ClipWorker` lives in each Generator replica; what it needs is given to it, so that it knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from deployments.tasks import end, to_the_end
from deployments.videos import metrics
from deployments.videos.encodes import Encodes
from deployments.videos.finishing import Finishing
from deployments.videos.renders import Renders
from deployments.videos.troubles import DATABASE_ERRORS, first_line
from deployments.videos.working import WorkerSettings
from gamegen.clips.drawing import Drawing
from gamegen.models.text import TextStates
from gamegen.storage.interface import StorageError
from gamegen.storage.objects import ObjectStore
from gamegen.videos.listen import Listener
from gamegen.videos.order import Order
from gamegen.videos.queue import VideoQueue
from gamegen.videos.records import Beat, Claim, Failure
from gamegen.videos.states import State

logger = logging.getLogger("ray.serve")

_LOOKS_AGAIN_S = 5.0
"""What has to wait before it may be tried again appears without a word."""
Reply = TypeVar("Reply")


@dataclass(eq=False)
class Job:
    """An order that this worker has."""

    claim: Claim
    drawing: Drawing | None = None
    saved_step: int = 0
    stages: metrics.StageClock = field(default_factory=lambda: metrics.StageClock(State.GENERATING))

    @property
    def id(self) -> str:
        return self.claim.id


@dataclass
class _Held:
    """What this worker has, and what became of it meanwhile."""

    jobs: dict[str, Job] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)

    @property
    def fences(self) -> dict[str, int]:
        return {job.id: job.claim.fence for job in self.jobs.values()}

    def note(self, beat: Beat) -> None:
        self.lost |= beat.lost & self.jobs.keys()
        self.cancelled |= beat.cancelled & self.jobs.keys()

    def is_wanted(self, job: Job) -> bool:
        return job.id not in self.lost and job.id not in self.cancelled

    def put_down(self, job: Job) -> None:
        self.jobs.pop(job.id, None)
        self.lost.discard(job.id)
        self.cancelled.discard(job.id)


class ClipWorker:
    """`run` works until it is cancelled; what it has then goes back into the queue, with a checkpoint.

    The renderer is loaded, and used, in `drawing_thread` alone.
    """

    def __init__(
        self,
        name: str,
        node: str,
        queue: VideoQueue,
        listener: Listener,
        store: ObjectStore,
        load_renderer: Callable[[], Renders],
        encoder: Encodes,
        finishing: Finishing,
        settings: WorkerSettings,
        drawing_thread: ThreadPoolExecutor,
    ) -> None:
        self.name, self._node = name, node
        self._queue, self._listener, self._store = queue, listener, store
        self._load_renderer, self._encoder, self._finishing = load_renderer, encoder, finishing
        self._settings, self._thread = settings, drawing_thread
        self._loaded: Renders | None = None
        self._held = _Held()
        self._finishers: set[asyncio.Task[None]] = set()

    @property
    def num_held(self) -> int:
        """Orders that it works on."""
        return len(self._held.jobs)

    async def run(self) -> None:
        """Works until it is cancelled."""
        beating = asyncio.create_task(self._beat())
        try:
            with self._listener.working("QUEUED") as watch:
                while True:
                    if not await self._work_once():
                        await watch.changed(_LOOKS_AGAIN_S)
        finally:
            await end(beating, *self._finishers)
            # Whoever ends this asks more than once, and closes the connections after it.
            await to_the_end(self._give_back())

    async def _work_once(self) -> bool:
        """Draws one batch, if there is one; what is drawn is finished beside the next."""
        # Those that wait to be finished hold frames and files.
        while len(self._finishers) > self._settings.max_batch:
            await asyncio.wait(self._finishers, return_when=asyncio.FIRST_COMPLETED)
        try:
            # Cancelled halfway, it would leave orders claimed that nobody knows of.
            jobs = await to_the_end(self._claim())
        except DATABASE_ERRORS as error:
            logger.warning("the queue cannot be reached: %s", first_line(error))
            return False
        if jobs:
            # With the first order: play, which shares the machine, starts sooner.
            self._loaded = self._loaded or await self._in_thread(self._load_renderer)
            await self._draw(await self._begun(jobs))
        return bool(jobs)

    async def _claim(self) -> list[Job]:
        settings = self._settings
        claims = await self._queue.claim_batch(self.name, settings.max_batch, settings.lease_s)
        metrics.record_claims(claims)
        jobs = [Job(claim) for claim in claims]
        self._held.jobs |= {job.id: job for job in jobs}
        return jobs

    @property
    def _renderer(self) -> Renders:
        assert self._loaded is not None
        return self._loaded

    async def _begun(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of them that can be drawn, on their way."""
        try:
            kept = await self._queue.advance({job.id: job.claim.fence for job in jobs}, State.GENERATING)
        except DATABASE_ERRORS as error:
            logger.warning("%d orders are left to their leases: %s", len(jobs), first_line(error))
            kept = frozenset()
        self._held.lost |= {job.id for job in jobs} - kept
        begun = []
        for job in jobs:
            if job.id not in kept:
                await self._put_down(job)
            elif await self._tried(job, self._begin(job)):
                begun.append(job)
        return begun

    async def _begin(self, job: Job) -> None:
        order = job.claim.order
        prompt, negative = await self._encoder.texts(order)
        if job.claim.checkpoint_key is not None:
            job.drawing = await self._resumed(order, prompt, negative, job.claim.checkpoint_key)
        if job.drawing is None:
            first = None
            if key := order.image_key or order.source_key:
                data = await asyncio.to_thread(self._store.read, key)
                first = await self._in_thread(self._renderer.first_latents, order, data)
            job.drawing = await self._in_thread(self._renderer.begin, order, prompt, negative, first)
        job.saved_step = job.drawing.step

    async def _resumed(
        self, order: Order, prompt: TextStates, negative: TextStates | None, key: str
    ) -> Drawing | None:
        """A clip as far as its checkpoint says; None for one that cannot be read, or is of another release."""
        try:
            data = await asyncio.to_thread(self._store.read, key)
            return await self._in_thread(self._renderer.resume, order, prompt, negative, data)
        except (StorageError, ValueError) as error:
            logger.warning("%s cannot be gone on from, the clip is begun anew: %s", key, first_line(error))
            return None

    async def _draw(self, jobs: list[Job]) -> None:
        """Step by step, together; each is finished by itself once it is drawn."""
        told_s = time.monotonic()
        while jobs := await self._sorted_out(jobs):
            try:
                step_s = await self._in_thread(self._renderer.step, [_drawing_of(job) for job in jobs])
            # One of them may be why: each is tried again later, and no more than so often.
            except Exception as error:
                logger.exception("a step of %d clips failed", len(jobs))
                for job in jobs:
                    await self._put_down(job, Failure("internal_error", first_line(error)))
                return
            metrics.record_step(len(jobs), step_s)
            await asyncio.gather(*(self._checkpoint(job) for job in jobs if self._is_due(job)))
            if time.monotonic() - told_s >= self._settings.progress_every_s:
                told_s = time.monotonic()
                await self._tell(jobs, step_s)

    async def _sorted_out(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that have steps to take; others are finished or put down."""
        left = []
        for job in jobs:
            if not self._held.is_wanted(job):
                await self._put_down(job)
            elif _drawing_of(job).is_done:
                task = asyncio.create_task(self._finish(job))
                self._finishers.add(task)
                task.add_done_callback(self._finishers.discard)
            else:
                left.append(job)
        return left

    def _is_due(self, job: Job) -> bool:
        drawing = _drawing_of(job)
        return not drawing.is_done and drawing.step - job.saved_step >= self._settings.checkpoint_every_steps

    async def _checkpoint(self, job: Job) -> None:
        """Keeps how far a clip is; without it the clip goes on all the same."""
        drawing = _drawing_of(job)
        step = drawing.step
        try:
            # Its thread may still be at a step.
            step, data = await self._in_thread(lambda: (drawing.step, drawing.checkpoint()))
            key = f"videos/{job.id}/checkpoints/{job.claim.fence}-{step}.safetensors"
            await asyncio.to_thread(self._store.write, key, data)
            await self._queue.checkpointed(job.id, job.claim.fence, step, key, len(data))
            job.saved_step = step
            metrics.CHECKPOINTS.add()
        except (StorageError, *DATABASE_ERRORS) as error:
            logger.warning("step %d of %s is not kept: %s", step, job.id, first_line(error))

    async def _tell(self, jobs: Sequence[Job], step_s: float) -> None:
        steps = {job.id: (job.claim.fence, _drawing_of(job).step, 1000 * step_s) for job in jobs}
        try:
            self._held.note(await self._queue.progress(steps))
        except DATABASE_ERRORS as error:
            logger.warning("progress cannot be told: %s", first_line(error))

    async def _finish(self, job: Job) -> None:
        """Decodes, checks, writes and stores; ends the order."""
        drawing = _drawing_of(job)
        if await self._tried(
            job, self._finishing.finish(job.claim, drawing, job.stages, lambda: self._held.is_wanted(job))
        ):
            if self._held.is_wanted(job):
                self._held.put_down(job)
            else:
                await self._put_down(job)

    async def _tried(self, job: Job, work: Awaitable[None]) -> bool:
        """Whether it was done; an order that fails is put down, and others go on."""
        try:
            await work
            return True
        except ValueError as error:
            # What cannot be drawn cannot be drawn by others either; a store that is away is no such thing.
            failure, is_final = Failure("cannot_be_drawn", str(error)), not isinstance(error, StorageError)
        except Exception as error:
            logger.exception("%s failed", job.id)
            failure, is_final = Failure("internal_error", first_line(error)), False
        await self._put_down(job, failure, is_final)
        return False

    async def _put_down(self, job: Job, failure: Failure | None = None, is_final: bool = False) -> None:
        if job.drawing is not None and not job.drawing.is_done:
            await self._in_thread(self._renderer.close, job.drawing)
        fence = job.claim.fence
        try:
            if job.id in self._held.cancelled and job.id not in self._held.lost:
                if await self._queue.cancelled(job.id, fence):
                    metrics.record_end(job.claim, State.CANCELLED)
            elif failure is not None and job.id not in self._held.lost:
                is_last = is_final or job.claim.attempts >= self._queue.settings.max_attempts
                if await self._queue.fail(job.id, fence, failure, is_final) and is_last:
                    metrics.record_end(job.claim, State.FAILED)
        except DATABASE_ERRORS as error:
            # Its lease ends, and another goes on from its checkpoint.
            logger.warning("%s is left to its lease: %s", job.id, first_line(error))
        self._held.put_down(job)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 4)
            try:
                await self._queue.seen(self.name, "generator", self._node)
                if fences := self._held.fences:
                    self._held.note(await self._queue.heartbeat(self.name, fences, self._settings.lease_s))
            # Whatever it is: without leases all that is drawn would be drawn in vain.
            except Exception as error:
                logger.warning("leases cannot be renewed: %s", first_line(error))

    async def _give_back(self) -> None:
        """Everything goes back at once, as far as it is."""
        jobs = [job for job in self._held.jobs.values() if self._held.is_wanted(job)]
        drawn = [job for job in jobs if job.drawing is not None and job.drawing.step > job.saved_step]
        await asyncio.gather(*(self._checkpoint(job) for job in drawn))
        try:
            await self._queue.release({job.id: job.claim.fence for job in jobs})
            await self._queue.gone(self.name)
        except DATABASE_ERRORS as error:
            logger.warning("orders are left to their leases: %s", first_line(error))

    async def _in_thread(self, work: Callable[..., Reply], *arguments: object) -> Reply:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _drawing_of(job: Job) -> Drawing:
    assert job.drawing is not None
    return job.drawing
