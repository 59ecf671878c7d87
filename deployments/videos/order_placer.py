"""Placing of orders: a request is checked, completed and written into the queue."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

from cachetools import LRUCache

from deployments.errors import ApiError
from deployments.observability import video_metrics
from deployments.prompts import PromptEncoder
from deployments.rate_limit import FixedWindowLimiter
from deployments.videos.orders import OrderInputs, ServedModel, body_hash_of, sha256_hex, to_order
from deployments.videos.schemas import NewVideo
from deployments.videos.settings import VideoSettings
from deployments.workers.intake import block_reason, check_texts
from gamegen.constants import FPS
from gamegen.generation.render_plan import RenderPlan
from gamegen.media.first_frames import FirstFrames, check_first_frames
from gamegen.media.images import MAX_IMAGE_BYTES
from gamegen.media.untrusted import MAX_VIDEO_BYTES
from gamegen.microbatch import MicroBatcher
from gamegen.service.orders.credits import cost
from gamegen.service.orders.order import Order, Tier
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import Generation, NewGeneration, OrderRefusal
from gamegen.service.orders.states import State
from gamegen.service.safety.checks import SafetyChecks, refusal
from gamegen.service.webhooks.urls import RefusedUrlError, check_url
from gamegen.storage.objects import ObjectStore

_STATUS_OF_REFUSAL: dict[str, tuple[int, int | None]] = {
    "request_reused": (409, None),
    "insufficient_credits": (402, None),
    "account_full": (429, 10),
    "queue_full": (503, 60),
}
"""HTTP status of each refusal of the queue, and Retry-After in seconds."""
_MAX_LIMITED_ACCOUNTS = 4096
_SURELY_SHORT_CHARACTERS = 240
"""Length up to which no text has too many tokens: it has no more tokens than characters, and a world's perspective
adds a few of both."""


class OrderPlacer:
    """Checks, completes and submits orders; those that arrive together share one transaction.

    `served_model` returns the model that draws clips, and raises ApiError (503) while no world replica has told it.
    `quick_checks` judge the words for an immediate answer; the checks of the order intake decide.
    """

    def __init__(
        self,
        *,
        queue: VideoQueue,
        objects: ObjectStore,
        served_model: Callable[[], Awaitable[ServedModel]],
        prompt_encoder: PromptEncoder,
        quick_checks: SafetyChecks,
        settings: VideoSettings,
    ) -> None:
        self._queue = queue
        self._objects = objects
        self._served_model = served_model
        self._prompt_encoder = prompt_encoder
        self._quick_checks = quick_checks
        self._settings = settings
        self._limiters: LRUCache[str, FixedWindowLimiter] = LRUCache(_MAX_LIMITED_ACCOUNTS)
        # One after another, which leaves the cores to play.
        self._decoding = asyncio.Lock()
        self._submissions: MicroBatcher[NewGeneration, Generation | OrderRefusal] = MicroBatcher(
            self._submit, settings.api.orders_at_once, calls_at_once=1
        )

    async def place(self, new: NewVideo, account: str, request_id: str | None) -> Generation:
        """Places an order; the same `request_id` and body return the same video.

        Raises ApiError: 402, 409, 413, 422, 429, 451 for words that may not be used, 503.
        """
        with video_metrics.ordering(new.tier):
            self._check_rate(account)
            self._check_webhook_url(new.webhook_url)
            model = await self._served_model()
            order = to_order(new, model=model, tiers=self._queue.settings.tiers, inputs=_inputs_of(new))
            num_steps = self._count_steps(order, model)
            await self._check_length(order)
            await self._store_input(new, order)
            made = await self._enqueue(
                NewGeneration(
                    id=f"video_{uuid.uuid4().hex}",
                    account=account,
                    order=order,
                    body_hash=body_hash_of(new),
                    num_steps=num_steps,
                    millicredits=cost(order, self._queue.settings.tiers.of(Tier(new.tier))),
                    request_id=request_id,
                    tier=Tier(new.tier),
                    priority=new.priority,
                    webhook_url=new.webhook_url,
                )
            )
            if new.kept and not made.is_kept:
                made = await self._queue.keep(made.id, account, True)
            self._refuse_words(made)
            return made

    def _check_rate(self, account: str) -> None:
        max_per_s = self._settings.api.max_orders_per_s
        limiter = self._limiters.setdefault(account, FixedWindowLimiter(max_per_s))
        if not limiter.allow():
            message = f"more than {max_per_s} orders a second: send them again more slowly"
            raise ApiError(429, "too_many_orders", message, retry_after_s=1)

    def _check_webhook_url(self, url: str | None) -> None:
        if url is None:
            return
        try:
            check_url(url, self._settings.webhooks.urls)
        except RefusedUrlError as error:
            raise ApiError(422, "invalid_webhook_url", f"webhook_url: {error}") from error

    async def _store_input(self, new: NewVideo, order: Order) -> None:
        """Stores the first image or the source video of an order once all that is used of it could be decoded."""
        inputs: list[tuple[FirstFrames, bytes | None, int]] = [
            ("image", new.image, MAX_IMAGE_BYTES),
            ("video", new.video, MAX_VIDEO_BYTES),
        ]
        for name, data, limit_bytes in inputs:
            if data is None:
                continue
            _check_size(name, data, limit_bytes)
            try:
                async with self._decoding:
                    await asyncio.to_thread(check_first_frames, name, data, order.drawn)
            except ValueError as error:
                raise ApiError(422, f"invalid_{name}", f"{name}: {error}") from error
            await asyncio.to_thread(self._objects.write, _input_key(data), data)

    async def _check_length(self, order: Order) -> None:
        """Has the texts that may have too many tokens encoded; raises ApiError (422, 503)."""
        for text, perspective in ((order.prompt, order.perspective), (order.negative_prompt, None)):
            if len(text) > _SURELY_SHORT_CHARACTERS:
                await self._prompt_encoder.encode(text, perspective, field="prompt")

    def _count_steps(self, order: Order, model: ServedModel) -> int:
        """Denoising steps of all chunks of an order; raises ApiError (422) for an order beyond the limits."""
        try:
            num_steps = RenderPlan.of(order.clip_spec, model.sampling).num_steps
            self._check_limits(order)
        except ValueError as error:
            raise ApiError(422, "invalid_request", str(error)) from error
        if num_steps == 0:
            message = (
                f"num_frames = {order.num_frames}: a clip from an image needs more than 4, since the first 4 are "
                "the image"
            )
            raise ApiError(422, "invalid_request", message)
        return num_steps

    def _check_limits(self, order: Order) -> None:
        """Raises ApiError (422) for an order beyond the limits of this server."""
        settings, length_s = self._settings, order.num_frames / FPS
        problem = None
        if order.num_frames > settings.max_frames:
            problem = (
                f"num_frames: {order.num_frames} frames are {length_s:g} s and the limit here is "
                f"{settings.max_frames}, {settings.max_frames / FPS:g} s: ask for a shorter clip"
            )
        elif order.size.num_pixels > settings.max_pixels:
            problem = (
                f"size: {order.size} has {order.size.num_pixels} pixels and the limit here is "
                f"{settings.max_pixels}: choose a smaller size"
            )
        elif order.work > settings.max_work:
            problem = (
                f"{length_s:g} s of {order.drawn} in {order.num_steps} steps, written as {order.size} at {order.fps} "
                f"frames a second, are {order.work:.0f} units of work and the limit here is {settings.max_work:g}: "
                "ask for fewer frames or steps, or a smaller size"
            )
        if problem:
            raise ApiError(422, "invalid_request", problem)

    async def _enqueue(self, new: NewGeneration) -> Generation:
        answer = await self._submissions.submit(new)
        if isinstance(answer, OrderRefusal):
            status, retry_after_s = _STATUS_OF_REFUSAL.get(answer.code, (503, 10))
            raise ApiError(status, answer.code, answer.message, retry_after_s=retry_after_s)
        return answer

    async def _submit(self, orders: list[NewGeneration]) -> AsyncIterator[list[Generation | OrderRefusal]]:
        yield await self._queue.submit(orders)

    def _refuse_words(self, made: Generation) -> None:
        """Raises ApiError (451) for words that the quick checks refuse; the order intake will block the order."""
        failure = made.failure if made.state is State.BLOCKED else None
        if failure is None and (refused := refusal(check_texts(self._quick_checks, made.order))):
            failure = block_reason(refused)
        if failure is not None:
            raise ApiError(451, failure.code, f"{made.id}: {failure.message}")


def _inputs_of(new: NewVideo) -> OrderInputs:
    return OrderInputs(
        image_key=None if new.image is None else _input_key(new.image),
        source_key=None if new.video is None else _input_key(new.video),
    )


def _input_key(data: bytes) -> str:
    return f"inputs/{sha256_hex(data)}"


def _check_size(name: str, data: bytes, limit_bytes: int) -> None:
    if len(data) > limit_bytes:
        message = f"{name}: {len(data)} bytes and the limit is {limit_bytes}: send a smaller file"
        raise ApiError(413, "file_too_large", message)
