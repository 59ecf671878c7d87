"""The intake of orders: safety checks of texts and images before an order may be drawn.

Texts are not encoded here. The API has checked their length when it took the order, and the worker that draws it
encodes them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from deployments.background import cancel_and_wait, run_to_completion
from deployments.observability import video_metrics
from deployments.workers.leases import first_line, keep_renewing, release
from gamegen.media.first_frames import read_first_frames
from gamegen.service.orders.listen import Listener
from gamegen.service.orders.order import Order
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import Claim, Failure
from gamegen.service.orders.states import State
from gamegen.service.safety.checks import SafetyChecks, refusal
from gamegen.service.safety.verdict import SafetyVerdict
from gamegen.storage.interface import StorageError
from gamegen.storage.objects import ObjectStore

logger = logging.getLogger("ray.serve")

_BATCH = 32
_POLL_S = 5.0
"""An order that waits for its next attempt becomes claimable without a notification."""
_CHECKED_CHUNKS = 60
"""Chunks of a source video whose frames are given to the checkers, which sample some of them."""


def check_texts(checks: SafetyChecks, order: Order) -> list[SafetyVerdict]:
    """Verdicts on an order's prompt and negative prompt."""
    verdicts = checks.check_text("prompt", order.prompt)
    if order.negative_prompt:
        verdicts += checks.check_text("negative_prompt", order.negative_prompt)
    return verdicts


def block_reason(verdict: SafetyVerdict) -> Failure:
    """The failure of an order that is blocked for a verdict on its texts or images."""
    what = "words" if verdict.subject in ("prompt", "negative_prompt") else verdict.subject
    message = verdict.reason or f"the {verdict.subject} may not be used ({verdict.checker})"
    return Failure(f"{what}_refused", message)


class OrderIntake:
    """Claims new orders, checks them, and puts those that pass into the generators' queue.

    Any number of intakes share one database. `run` works until it is cancelled.
    """

    def __init__(
        self,
        *,
        name: str,
        queue: VideoQueue,
        listener: Listener,
        store: ObjectStore,
        checks: SafetyChecks,
        lease_s: float,
    ) -> None:
        self._name = name
        self._queue = queue
        self._listener = listener
        self._store = store
        self._checks = checks
        self._lease_s = lease_s

    async def run(self) -> None:
        """Checks orders until it is cancelled; orders that it still holds then go back into the queue."""
        with self._listener.working("PENDING") as watch:
            while True:
                if not await self._check_batch():
                    await watch.changed(_POLL_S)

    async def _check_batch(self) -> bool:
        """Checks the orders that wait; False if there were none."""
        held: dict[str, int] = {}
        renewal = asyncio.create_task(keep_renewing(lambda: self._renew(held), self._lease_s))
        try:
            # Cancelled halfway, it would leave orders claimed that nobody knows of.
            claims = await run_to_completion(self._claim(held))
            passed = await asyncio.gather(*(self._is_passed(claim) for claim in claims))
            if ready := [claim for claim, is_ready in zip(claims, passed, strict=True) if is_ready]:
                await self._queue.encoded(ready)
            return bool(claims)
        except asyncio.CancelledError:
            # At once, rather than when the leases have ended; orders that have ended are not changed.
            if held:
                await run_to_completion(release(self._queue, held))
            raise
        finally:
            await cancel_and_wait(renewal)

    async def _claim(self, held: dict[str, int]) -> Sequence[Claim]:
        claims = await self._queue.claim_pending(self._name, _BATCH, self._lease_s)
        held |= {claim.id: claim.fence for claim in claims}
        return claims

    async def _renew(self, held: dict[str, int]) -> None:
        if held:
            await self._queue.heartbeat(self._name, held, self._lease_s)

    async def _is_passed(self, claim: Claim) -> bool:
        """Checks an order; one that does not pass is ended here."""
        try:
            verdicts = await self._verdicts(claim.order)
            await self._queue.audit(claim.id, verdicts)
            refused = refusal(verdicts)
            if refused is None:
                return True
            if await self._queue.block(claim.id, claim.fence, block_reason(refused)):
                video_metrics.record_end(claim, State.BLOCKED)
        except ValueError as error:
            is_final = not isinstance(error, StorageError)
            await self._fail(claim, Failure("invalid_input", str(error)), is_final)
        except Exception as error:
            logger.exception("%s cannot be checked now", claim.id)
            await self._fail(claim, Failure("encoding_failed", first_line(error)), is_final=False)
        return False

    async def _fail(self, claim: Claim, failure: Failure, is_final: bool) -> None:
        is_last = is_final or claim.attempts >= self._queue.settings.max_attempts
        if await self._queue.fail(claim.id, claim.fence, failure, is_final) and is_last:
            video_metrics.record_end(claim, State.FAILED)

    async def _verdicts(self, order: Order) -> list[SafetyVerdict]:
        verdicts = await asyncio.to_thread(check_texts, self._checks, order)
        for subject, key in (("image", order.image_key), ("source", order.source_key)):
            if key is not None and not refusal(verdicts):
                file = await asyncio.to_thread(self._store.read, key)
                frames = await asyncio.to_thread(read_first_frames, file, order.drawn, _CHECKED_CHUNKS)
                verdicts += await asyncio.to_thread(self._checks.check_frames, subject, frames)
        return verdicts
