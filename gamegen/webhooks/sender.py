"""Sends webhooks: any number of senders share the deliveries of one database."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from gamegen.webhooks.deliveries import (
    CHANNEL,
    ClaimedDelivery,
    Deliveries,
    DeliveryState,
    RetrySettings,
)
from gamegen.webhooks.posting import Answer, Poster, PostLimits
from gamegen.webhooks.sealing import Seal, UnreadableSecretError
from gamegen.webhooks.signing import RotationSettings, Secrets, signed_headers
from gamegen.webhooks.urls import UrlRules
from gamegen.webhooks.waking import listen

logger = logging.getLogger(__name__)

_DATABASE_ERRORS = (DBAPIError, PoolTimeoutError, OSError)
_DATABASE_RETRY_S = 1.0
# Rows that are due but locked by another sender are looked at again after this long.
_SHORTEST_WAIT_S = 0.05


@dataclass(frozen=True)
class WebhookSettings:
    """How webhooks are sent.

    A sender sends `concurrency` at a time. An account that has `per_account` of them under way gets no more, so one
    whose receiver is slow does not hold up the others; a claim takes at most as many of each. A delivery is a sender's
    for `lease_s` seconds; when the sender is lost, another takes it after that. Every `idle_s` seconds it looks for
    work that nobody told it of.
    """

    urls: UrlRules = field(default_factory=UrlRules)
    limits: PostLimits = field(default_factory=PostLimits)
    retries: RetrySettings = field(default_factory=RetrySettings)
    rotation: RotationSettings = field(default_factory=RotationSettings)
    concurrency: int = 32
    per_account: int = 8
    lease_s: float = 60.0
    idle_s: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.per_account <= self.concurrency <= 1000:
            raise ValueError(
                f"concurrency is {self.concurrency} and per_account {self.per_account}: they must be 1 to 1000, and "
                "per_account not above concurrency"
            )
        if self.lease_s < 3 * self.limits.attempt_s:
            raise ValueError(
                f"lease_s is {self.lease_s:g}: it must be at least three times attempt_s "
                f"({self.limits.attempt_s:g}), or a message could be sent twice at a time"
            )
        if self.idle_s < 1:
            raise ValueError(f"idle_s is {self.idle_s:g}: it must be at least 1 second")


class Sender:
    """Sends what is due, as soon as it is. A message may arrive twice, with the same webhook-id, and never at once.

    `told` hears what becomes of each attempt.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: WebhookSettings,
        seal: Seal | None = None,
        poster: Poster | None = None,
        told: Callable[[DeliveryState], None] = lambda _: None,
    ) -> None:
        self._engine, self._settings = engine, settings
        self._deliveries = Deliveries(engine, settings.retries)
        self._secrets = Secrets(engine, settings.rotation, seal or Seal.from_environment())
        self._told = told
        self._poster = poster or Poster(settings.urls, settings.limits)
        self._wake = asyncio.Event()
        self._sending: Counter[str] = Counter()
        self._is_stopping = False

    async def run(self) -> None:
        """Runs until `stop()`, and then ends what is under way. When cancelled, what is under way waits for the end of
        its lease. A database that is away is waited for."""
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listen(self._engine.url, CHANNEL, self._wake))
            while not self._is_stopping:
                self._wake.clear()
                wait_s = await self._begin_due(tasks)
                await _wait(self._wake, wait_s)
            listening.cancel()

    def stop(self) -> None:
        """Takes on nothing more."""
        self._is_stopping = True
        self._wake.set()

    async def _begin_due(self, tasks: asyncio.TaskGroup) -> float:
        """Begins to send what there is room for; returns the seconds after which to look again."""
        settings = self._settings
        room = settings.concurrency - self._sending.total()
        if not room:
            return settings.idle_s
        try:
            for claim in await self._deliveries.claim(
                room, settings.per_account, settings.lease_s, self._busy()
            ):
                self._sending[claim.account] += 1
                tasks.create_task(self._deliver(claim))
            if self._sending.total() >= settings.concurrency:
                return settings.idle_s
            due_s = await self._deliveries.next_due_s(self._busy())
        except _DATABASE_ERRORS as error:
            logger.warning("webhooks wait for the database: %s", _cause(error))
            return _DATABASE_RETRY_S
        return settings.idle_s if due_s is None else min(max(due_s, _SHORTEST_WAIT_S), settings.idle_s)

    def _busy(self) -> list[str]:
        return [account for account, count in self._sending.items() if count >= self._settings.per_account]

    async def _deliver(self, claim: ClaimedDelivery) -> None:
        try:
            answer = await self._attempt(claim)
            await self._settle(claim, answer)
        # One message must not end the others; the end of its lease brings it back.
        except _DATABASE_ERRORS as error:
            logger.warning("delivery %s waits for the database: %s", claim.id, _cause(error))
        except Exception:
            logger.exception("delivery %s was not carried through", claim.id)
        finally:
            self._sending[claim.account] -= 1
            # Keys of accounts that have nothing under way are dropped.
            self._sending += Counter()
            self._wake.set()

    async def _attempt(self, claim: ClaimedDelivery) -> Answer:
        body = json.dumps(claim.payload, ensure_ascii=False, separators=(",", ":"))
        try:
            async with asyncio.timeout(self._settings.limits.attempt_s):
                secrets = [secret.text for secret in await self._secrets.of(claim.account)]
        except UnreadableSecretError as error:
            logger.error("delivery %s cannot be signed: %s", claim.id, error)
            return Answer(error="this server cannot read the account's signing secret")
        headers = signed_headers(secrets, claim.id, datetime.now(UTC), body)
        return await self._poster.post(claim.url, headers, body.encode())

    async def _settle(self, claim: ClaimedDelivery, answer: Answer) -> None:
        """Tries for as long as the lease may last: an answer that is not written down is a message sent twice."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(_DATABASE_ERRORS),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=stop_after_delay(self._settings.lease_s),
            reraise=True,
        ):
            with attempt:
                state = await self._deliveries.settle(claim, answer)
        if state is not None:
            self._told(state)
        logger.info(
            "delivery %s, attempt %d: %s, %s",
            claim.id,
            claim.attempts,
            state or "lease lost",
            answer.error or "ok",
        )


def _cause(error: BaseException) -> BaseException:
    # The driver's own words: SQLAlchemy's would show the statement.
    return getattr(error, "orig", None) or error


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
