"""Orders on their way into the queue: checked, completed, and written down together with others that just came."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator

from deployments.connection import Allowance
from deployments.errors import ApiError
from deployments.videos import metrics
from deployments.videos.ordering import Inputs, digest, hash_of, to_order
from deployments.videos.schemas import NewVideo
from deployments.videos.service import VideoService
from gamegen.grouping import GroupedCalls
from gamegen.uploaded_video import MAX_VIDEO_BYTES, count_frames
from gamegen.video import MAX_IMAGE_BYTES, decode_image
from gamegen.videos.credits import cost
from gamegen.videos.order import Order, Tier
from gamegen.videos.records import Generation, NewGeneration, Refusal
from gamegen.videos.states import State

_REFUSED: dict[str, tuple[int, int | None]] = {
    "request_reused": (409, None),
    "insufficient_credits": (402, None),
    "account_full": (429, 10),
    "queue_full": (503, 60),
}
"""The status of each refusal of the queue, and in how many seconds to try again."""
_MOST_COUNTED = 4096
"""Accounts whose orders of the last second are counted."""


class Submissions:
    """Takes orders for one service."""

    def __init__(self, service: VideoService) -> None:
        self._service = service
        self._calls: GroupedCalls[NewGeneration, Generation | Refusal] = GroupedCalls(
            self._submit_all, service.settings.orders_at_once, calls_at_once=1
        )
        self._allowances: OrderedDict[str, Allowance] = OrderedDict()

    async def submit(self, new: NewVideo, account: str, request_id: str | None) -> Generation:
        """Places an order; the same `request_id` and order gives the same video.

        Raises ApiError: 402, 409, 413, 422, 429, 451 if the words may not be used, 503.
        """
        with metrics.ordering(new.tier):
            return await self._submit(new, account, request_id)

    async def _submit(self, new: NewVideo, account: str, request_id: str | None) -> Generation:
        self._check_rate(account)
        if new.webhook_url is not None:
            _checked("webhook_url", self._service.check_webhook_url, new.webhook_url)
        inputs = await self._inputs(new)
        order = to_order(new, self._service.model, self._service.queue.settings.tiers, inputs)
        try:
            await self._service.check_text(order)
        except ValueError as error:
            raise ApiError(422, "prompt_too_long", f"prompt: {error}") from error
        num_steps = self._num_steps(order)
        made = await self._placed(self._generation(new, order, num_steps, account, request_id))
        if new.kept and not made.is_kept:
            made = await self._service.queue.keep(made.id, account, True)
        await self._refuse_words(made)
        return made

    def _check_rate(self, account: str) -> None:
        allowance = self._allowances.setdefault(account, Allowance(self._service.settings.max_orders_per_s))
        self._allowances.move_to_end(account)
        if len(self._allowances) > _MOST_COUNTED:
            self._allowances.popitem(last=False)
        if not allowance.is_within():
            limit = self._service.settings.max_orders_per_s
            message = f"more than {limit} orders a second: send them again more slowly"
            raise ApiError(429, "too_many_orders", message, retry_after_s=1)

    async def _inputs(self, new: NewVideo) -> Inputs:
        """Stores what the clip begins with, once it was looked at."""
        if new.image is not None:
            _check_bytes("image", new.image, MAX_IMAGE_BYTES)
            await asyncio.to_thread(_checked, "image", decode_image, new.image)
            return Inputs(image_key=await self._stored(new.image))
        if new.video is not None:
            _check_bytes("video", new.video, MAX_VIDEO_BYTES)
            await asyncio.to_thread(_checked, "video", count_frames, new.video)
            return Inputs(source_key=await self._stored(new.video))
        return Inputs()

    async def _stored(self, data: bytes) -> str:
        key = f"inputs/{digest(data)}"
        await asyncio.to_thread(self._service.objects.write, key, data)
        return key

    def _num_steps(self, order: Order) -> int:
        try:
            return self._service.count_steps(order)
        except ValueError as error:
            raise ApiError(422, "invalid_request", str(error)) from error

    def _generation(
        self, new: NewVideo, order: Order, num_steps: int, account: str, request_id: str | None
    ) -> NewGeneration:
        tier, tiers = Tier(new.tier), self._service.queue.settings.tiers
        return NewGeneration(
            id=f"video_{uuid.uuid4().hex}",
            account=account,
            order=order,
            body_hash=hash_of(new),
            num_steps=num_steps,
            millicredits=cost(order, tiers.of(tier)),
            request_id=request_id,
            tier=tier,
            priority=new.priority,
            webhook_url=new.webhook_url,
        )

    async def _placed(self, new: NewGeneration) -> Generation:
        answer = await self._calls.answer(new)
        if isinstance(answer, Refusal):
            status, retry_after_s = _REFUSED.get(answer.code, (503, 10))
            raise ApiError(status, answer.code, answer.message, retry_after_s)
        return answer

    async def _submit_all(self, orders: list[NewGeneration]) -> AsyncIterator[list[Generation | Refusal]]:
        yield await self._service.queue.submit(orders)

    async def _refuse_words(self, made: Generation) -> None:
        """Says at once that an order will be blocked. Whoever encodes its words finds the same, and writes it down."""
        failure = made.failure if made.state is State.BLOCKED else await self._service.judge(made.order)
        if failure is not None:
            raise ApiError(451, failure.code, f"{made.id}: {failure.message}")


def _check_bytes(name: str, data: bytes, most: int) -> None:
    if len(data) > most:
        message = f"{name}: {len(data)} bytes and the limit is {most}: send a smaller file"
        raise ApiError(413, "file_too_large", message)


def _checked(name: str, check, value) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ApiError(422, f"invalid_{name}", f"{name}: {error}") from error
