"""The clip worker: claims orders, draws them in batches, and finishes each clip beside the next batch.

One `ClipWorker` lives in each Generator replica; what it needs is given to it, so that it knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deployments.background import cancel_and_wait, run_to_completion
from deployments.observability import video_metrics
from deployments.workers.finishing import ClipFinisher, DrawnClip
from deployments.workers.leases import (
    DATABASE_ERRORS,
    HeldOrder,
    HeldOrders,
    first_line,
    keep_renewing,
    release,
)
from deployments.workers.protocols import EncodeText, Renderer
from deployments.workers.settings import WorkerSettings
from gamegen.generation.drawing import Drawing
from gamegen.models.text import TextStates
from gamegen.service.orders.listen import Listener
from gamegen.service.orders.order import Order
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import Failure
from gamegen.service.orders.states import State
from gamegen.storage.interface import StorageError
from gamegen.storage.objects import ObjectStore

logger = logging.getLogger("ray.serve")

_POLL_S = 5.0
"""An order that waits for its next attempt becomes claimable without a notification."""
Result = TypeVar("Result")


class ClipWorker:
    """Draws orders until `run` is cancelled; unfinished ones then go back into the queue, with a checkpoint.

    The renderer is loaded and stepped in `drawing_thread` alone.
    """

    def __init__(
        self,
        *,
        name: str,
        node: str,
        queue: VideoQueue,
        listener: Listener,
        store: ObjectStore,
        load_renderer: Callable[[], Renderer],
        encode_text: EncodeText,
        finisher: ClipFinisher,
        settings: WorkerSettings,
        drawing_thread: ThreadPoolExecutor,
    ) -> None:
        self.name = name
        self._node = node
        self._queue = queue
        self._listener = listener
        self._store = store
        self._load_renderer = load_renderer
        self._encode_text = encode_text
        self._finisher = finisher
        self._settings = settings
        self._thread = drawing_thread
        self._loaded: Renderer | None = None
        self._held = HeldOrders()
        self._finishing: set[asyncio.Task[None]] = set()

    @property
    def num_held(self) -> int:
        """Number of orders that it holds."""
        return len(self._held.orders)

    async def run(self) -> None:
        """Works until it is cancelled."""
        renewal = asyncio.create_task(keep_renewing(self._renew, self._settings.lease_s))
        try:
            with self._listener.working("QUEUED") as watch:
                while True:
                    if not await self._draw_batch():
                        await watch.changed(_POLL_S)
        finally:
            await cancel_and_wait(renewal, *self._finishing)
            # Its caller may cancel more than once, and closes the connections after it.
            await run_to_completion(self._release())

    async def _draw_batch(self) -> bool:
        """Draws one batch; False if no order waits."""
        # Clips that wait to be finished hold frames and files.
        while len(self._finishing) > self._settings.max_batch:
            await asyncio.wait(self._finishing, return_when=asyncio.FIRST_COMPLETED)
        try:
            # Cancelled halfway, it would leave orders claimed that nobody knows of.
            orders = await run_to_completion(self._claim())
        except DATABASE_ERRORS as error:
            logger.warning("the queue cannot be reached: %s", first_line(error))
            return False
        if orders:
            # With the first order: play, which shares the machine, starts sooner.
            self._loaded = self._loaded or await self._in_thread(self._load_renderer)
            await self._draw(await self._begin_all(orders))
        return bool(orders)

    async def _claim(self) -> list[HeldOrder]:
        settings = self._settings
        claims = await self._queue.claim_batch(self.name, settings.max_batch, settings.lease_s)
        video_metrics.record_claims(claims)
        orders = [HeldOrder(claim) for claim in claims]
        self._held.orders |= {order.id: order for order in orders}
        return orders

    @property
    def _renderer(self) -> Renderer:
        assert self._loaded is not None
        return self._loaded

    async def _begin_all(self, orders: Sequence[HeldOrder]) -> list[HeldOrder]:
        """Begins the clips of claimed orders; returns those that can be drawn."""
        try:
            fences = {order.id: order.claim.fence for order in orders}
            kept = await self._queue.advance(fences, State.GENERATING)
        except DATABASE_ERRORS as error:
            logger.warning("%d orders are left to their leases: %s", len(orders), first_line(error))
            kept = frozenset()
        self._held.lost |= {order.id for order in orders} - kept
        begun = []
        for order in orders:
            if order.id not in kept:
                await self._put_down(order)
            elif await self._succeeds(order, self._begin(order)):
                begun.append(order)
        return begun

    async def _begin(self, held: HeldOrder) -> None:
        """Begins a clip, or resumes it from its checkpoint."""
        order = held.claim.order
        prompt = (await self._encode_text(order.prompt, order.perspective)).to_states()
        negative = None
        if order.negative_prompt:
            negative = (await self._encode_text(order.negative_prompt, None)).to_states()
        if held.claim.checkpoint_key is not None:
            held.drawing = await self._resume(order, prompt, negative, held.claim.checkpoint_key)
        if held.drawing is not None:
            assert held.claim.checkpoint_key is not None
            held.note_saved(held.drawing.step, len(held.drawing.finished), held.claim.checkpoint_key)
        else:
            first = None
            if key := order.image_key or order.source_key:
                data = await asyncio.to_thread(self._store.read, key)
                first = await self._in_thread(self._renderer.first_latents, order.clip_spec, data)
            held.drawing = await self._in_thread(
                self._renderer.begin, order.clip_spec, prompt, negative, first
            )

    async def _resume(
        self, order: Order, prompt: TextStates, negative: TextStates | None, key: str
    ) -> Drawing | None:
        """A clip from its checkpoint; None for one that cannot be read, or is of another release."""
        try:
            data = await asyncio.to_thread(self._store.read, key)
            return await self._in_thread(
                self._renderer.resume, order.clip_spec, prompt, negative, data, self._store.read
            )
        except (StorageError, ValueError) as error:
            logger.warning("%s cannot be resumed, the clip starts again: %s", key, first_line(error))
            return None

    async def _draw(self, orders: list[HeldOrder]) -> None:
        """Draws clips together, step by step; each is finished by itself once it is drawn."""
        reported_s = time.monotonic()
        while orders := await self._unfinished(orders):
            try:
                step_s = await self._in_thread(self._renderer.step, [order.clip for order in orders])
            # One of them may be the cause: each is tried again later, up to `max_attempts` times.
            except Exception as error:
                logger.exception("a step of %d clips failed", len(orders))
                for order in orders:
                    await self._put_down(order, Failure("internal_error", first_line(error)))
                return
            video_metrics.record_step(len(orders), step_s)
            every_steps = self._settings.checkpoint_every_steps
            due = [order for order in orders if order.is_checkpoint_due(every_steps)]
            await asyncio.gather(*(self._checkpoint(order) for order in due))
            if time.monotonic() - reported_s >= self._settings.progress_every_s:
                reported_s = time.monotonic()
                await self._report(orders, step_s)

    async def _unfinished(self, orders: Sequence[HeldOrder]) -> list[HeldOrder]:
        """Orders that have steps left; starts to finish the others, and puts down unwanted ones."""
        left = []
        for order in orders:
            if not self._held.is_wanted(order):
                await self._put_down(order)
            elif order.clip.is_done:
                task = asyncio.create_task(self._finish(order))
                self._finishing.add(task)
                task.add_done_callback(self._finishing.discard)
            else:
                left.append(order)
        return left

    async def _checkpoint(self, order: HeldOrder) -> None:
        """Stores a checkpoint, and removes the one whose place it takes; if that fails, the clip goes on without it."""
        step, fence, before = order.clip.step, order.claim.fence, order.superseded
        try:
            # The drawing thread may still be in a step.
            made = await self._in_thread(order.clip.checkpoint)
            step = made.step
            key = f"videos/{order.id}/checkpoints/{fence}-{step}.safetensors"
            await asyncio.to_thread(self._store.write, key, made.data)
            is_held = await self._queue.checkpointed(
                order.id, fence, step, key, len(made.data), superseded=before[0] if before else None
            )
            if not is_held:
                return
            order.note_saved(step, made.num_finished, key)
            video_metrics.CHECKPOINTS.add()
            if before and before[1] != key:
                await asyncio.to_thread(self._store.delete, before[1])
        except (StorageError, *DATABASE_ERRORS) as error:
            logger.warning("the checkpoint of %s at step %d is lost: %s", order.id, step, first_line(error))

    async def _report(self, orders: Sequence[HeldOrder], step_s: float) -> None:
        """Reports progress; learns of lost and cancelled orders."""
        steps = {order.id: (order.claim.fence, order.clip.step, 1000 * step_s) for order in orders}
        try:
            self._held.note(await self._queue.progress(steps))
        except DATABASE_ERRORS as error:
            logger.warning("progress cannot be reported: %s", first_line(error))

    async def _finish(self, order: HeldOrder) -> None:
        """Makes a drawn clip's files; ends the order."""
        clip = DrawnClip(
            claim=order.claim,
            drawing=order.clip,
            decoded=self._renderer.decode(order.clip),
            stages=order.stages,
            is_wanted=lambda: self._held.is_wanted(order),
        )
        if await self._succeeds(order, self._finisher.finish(clip)):
            if self._held.is_wanted(order):
                self._held.remove(order)
            else:
                await self._put_down(order)

    async def _succeeds(self, order: HeldOrder, work: Awaitable[None]) -> bool:
        """Awaits work on an order; False if it failed, and then puts down that order alone."""
        try:
            await work
            return True
        except ValueError as error:
            # No other worker can draw it either, unless the store is away.
            failure, is_final = Failure("cannot_be_drawn", str(error)), not isinstance(error, StorageError)
        except Exception as error:
            logger.exception("%s failed", order.id)
            failure, is_final = Failure("internal_error", first_line(error)), False
        await self._put_down(order, failure, is_final)
        return False

    async def _put_down(
        self, order: HeldOrder, failure: Failure | None = None, is_final: bool = False
    ) -> None:
        """Ends this worker's hold on an order: as cancelled, as failed, or silently if it was lost."""
        if order.drawing is not None and not order.drawing.is_done:
            await self._in_thread(self._renderer.close, order.drawing)
        fence = order.claim.fence
        try:
            if order.id in self._held.cancelled and order.id not in self._held.lost:
                if await self._queue.cancelled(order.id, fence):
                    video_metrics.record_end(order.claim, State.CANCELLED)
            elif failure is not None and order.id not in self._held.lost:
                is_last = is_final or order.claim.attempts >= self._queue.settings.max_attempts
                if await self._queue.fail(order.id, fence, failure, is_final) and is_last:
                    video_metrics.record_end(order.claim, State.FAILED)
        except DATABASE_ERRORS as error:
            # Its lease expires, and another worker resumes its checkpoint.
            logger.warning("%s is left to its lease: %s", order.id, first_line(error))
        self._held.remove(order)

    async def _renew(self) -> None:
        await self._queue.seen(self.name, "generator", self._node)
        if fences := self._held.fences:
            self._held.note(await self._queue.heartbeat(self.name, fences, self._settings.lease_s))

    async def _release(self) -> None:
        """Puts every order back into the queue, with a checkpoint of the steps that are not saved."""
        orders = self._held.wanted
        drawn = [order for order in orders if order.drawing and order.drawing.step > order.saved_step]
        await asyncio.gather(*(self._checkpoint(order) for order in drawn))
        await release(self._queue, {order.id: order.claim.fence for order in orders})
        try:
            await self._queue.gone(self.name)
        except DATABASE_ERRORS as error:
            logger.warning("this worker is listed until it counts as lost: %s", first_line(error))

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
