"""What has to be done about orders besides drawing them: words judged and encoded, lost leases, old files, webhooks.

Any number of clerks share the work of one database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from deployments.tasks import end, to_the_end
from deployments.videos import metrics
from deployments.videos.encodes import Encodes
from deployments.videos.judging import blocked, judged_words
from deployments.videos.troubles import DATABASE_ERRORS, first_line
from gamegen.first_frames import read_first_frames
from gamegen.retention.retention import Retention
from gamegen.safety.checks import SafetyChecks, refusal
from gamegen.storage.interface import StorageError
from gamegen.storage.objects import ObjectStore
from gamegen.videos.listen import Listener
from gamegen.videos.order import Order
from gamegen.videos.queue import VideoQueue
from gamegen.videos.records import Claim, Failure, Verdict
from gamegen.videos.states import State
from gamegen.webhooks.sender import Sender

logger = logging.getLogger("ray.serve")

_BATCH = 32
_LOOKS_AGAIN_S = 5.0
_REAP_EVERY_S = 1.0
_TIDY_EVERY_S = 60.0
_COUNT_EVERY_S = 5.0
_SWEEP_EVERY = 24 * 60
_RETRY_S = 1.0
_JUDGED_CHUNKS = 60
"""Of a video to go on from; the checkers take some frames of them."""


class Clerk:
    """`run` works until it is cancelled."""

    def __init__(
        self,
        name: str,
        queue: VideoQueue,
        listener: Listener,
        store: ObjectStore,
        encoder: Encodes,
        checks: SafetyChecks,
        retention: Retention,
        sender: Sender,
        lease_s: float,
    ) -> None:
        self._name, self._queue, self._listener, self._store = name, queue, listener, store
        self._encoder, self._checks, self._retention, self._sender = encoder, checks, retention, sender
        self._lease_s = lease_s

    async def run(self) -> None:
        """Does all of it at once; one kind of work that fails is taken up again and holds up no other."""
        works = (self._encode_all, self._reap_all, self._tidy_all, self._count_all, self._sender.run)
        tasks = [asyncio.create_task(_again(work)) for work in works]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end(*tasks)

    async def _encode_all(self) -> None:
        with self._listener.working("PENDING") as watch:
            while True:
                if not await self._encode_some():
                    await watch.changed(_LOOKS_AGAIN_S)

    async def _encode_some(self) -> bool:
        """Whether there were orders to see to."""
        held: dict[str, int] = {}
        beating = asyncio.create_task(self._beat(held))
        try:
            # Cancelled halfway, it would leave orders claimed that nobody knows of.
            claims = await to_the_end(self._claim(held))
            passed = await asyncio.gather(*(self._is_passed(claim) for claim in claims))
            if ready := [claim for claim, is_ready in zip(claims, passed, strict=True) if is_ready]:
                await self._queue.encoded(ready)
            return bool(claims)
        except asyncio.CancelledError:
            # At once, rather than when the leases have ended; of those that have ended nothing is changed.
            if held:
                await to_the_end(self._give_back(held))
            raise
        finally:
            await end(beating)

    async def _claim(self, held: dict[str, int]) -> Sequence[Claim]:
        claims = await self._queue.claim_pending(self._name, _BATCH, self._lease_s)
        held |= {claim.id: claim.fence for claim in claims}
        return claims

    async def _beat(self, held: Mapping[str, int]) -> None:
        """Many words may take longer than a lease."""
        while True:
            await asyncio.sleep(self._lease_s / 4)
            try:
                await self._queue.heartbeat(self._name, held, self._lease_s)
            except DATABASE_ERRORS as error:
                logger.warning("leases cannot be renewed: %s", first_line(error))

    async def _give_back(self, held: Mapping[str, int]) -> None:
        try:
            await self._queue.release(held)
        except DATABASE_ERRORS as error:
            logger.warning("orders are left to their leases: %s", first_line(error))

    async def _is_passed(self, claim: Claim) -> bool:
        """Whether an order may be drawn; one that may not is ended here."""
        try:
            verdicts = await self._verdicts(claim.order)
            await self._queue.audit(claim.id, verdicts)
            if refused := refusal(verdicts):
                if await self._queue.block(claim.id, claim.fence, blocked(refused)):
                    metrics.record_end(claim, State.BLOCKED)
                return False
            await self._encoder.texts(claim.order)
            return True
        except ValueError as error:
            is_final = not isinstance(error, StorageError)
            await self._fail(claim, Failure("invalid_input", str(error)), is_final)
        except Exception as error:
            logger.exception("the words of %s cannot be encoded now", claim.id)
            await self._fail(claim, Failure("encoding_failed", first_line(error)), is_final=False)
        return False

    async def _fail(self, claim: Claim, failure: Failure, is_final: bool) -> None:
        is_last = is_final or claim.attempts >= self._queue.settings.max_attempts
        if await self._queue.fail(claim.id, claim.fence, failure, is_final) and is_last:
            metrics.record_end(claim, State.FAILED)

    async def _verdicts(self, order: Order) -> list[Verdict]:
        verdicts = await asyncio.to_thread(judged_words, self._checks, order)
        for subject, key in (("image", order.image_key), ("source", order.source_key)):
            if key is not None and not refusal(verdicts):
                file = await asyncio.to_thread(self._store.read, key)
                size = order.width, order.height
                frames = await asyncio.to_thread(read_first_frames, file, size, _JUDGED_CHUNKS)
                verdicts += await asyncio.to_thread(self._checks.check_frames, subject, frames)
        return verdicts

    async def _reap_all(self) -> None:
        while True:
            if taken := await self._queue.reap():
                logger.warning("%d orders of lost workers go back into the queue", taken)
                metrics.TAKEN_OVER.add(taken)
            await asyncio.sleep(_REAP_EVERY_S)

    async def _count_all(self) -> None:
        while True:
            metrics.record_queue(await self._queue.stats())
            await asyncio.sleep(_COUNT_EVERY_S)

    async def _tidy_all(self) -> None:
        runs = 0
        while True:
            await asyncio.sleep(_TIDY_EVERY_S)
            runs += 1
            await self._retention.run(is_sweeping=runs % _SWEEP_EVERY == 0)


async def _again(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except (StorageError, *DATABASE_ERRORS) as error:
            logger.warning("waits and begins again: %s", first_line(error))
        except Exception:
            logger.exception("begins again")
        await asyncio.sleep(_RETRY_S)
