"""Sender of webhooks; any number of senders share the deliveries of one database."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from gamegen.service.database.notifications import NotificationListener
from gamegen.service.webhooks.deliveries import CHANNEL, ClaimedDelivery, Deliveries, DeliveryState
from gamegen.service.webhooks.secret_box import SecretBox, UnreadableSecretError
from gamegen.service.webhooks.settings import (
    WebhookSettings,
)
from gamegen.service.webhooks.signing import SigningSecrets, signed_headers
from gamegen.service.webhooks.webhook_client import AttemptResult, WebhookClient

logger = logging.getLogger(__name__)

_DATABASE_ERRORS = (DBAPIError, PoolTimeoutError, OSError)
_DATABASE_RETRY_S = 1.0
# Rows that are due but locked by another sender are looked at again after this long.
_MIN_WAIT_S = 0.05


class WebhookSender:
    """Sends deliveries when they are due, each at least once.

    A message may arrive twice, with one webhook-id, never at the same time. `on_result` is called with the state after
    each attempt.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: WebhookSettings,
        secret_box: SecretBox | None = None,
        client: WebhookClient | None = None,
        on_result: Callable[[DeliveryState], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._deliveries = Deliveries(engine, settings.retries)
        self._secrets = SigningSecrets(engine, settings.rotation, secret_box or SecretBox.from_environment())
        self._on_result = on_result
        self._client = client or WebhookClient(settings.urls, settings.limits)
        self._wake = asyncio.Event()
        self._sending: Counter[str] = Counter()
        self._is_stopping = False

    async def run(self) -> None:
        """Runs until `stop()`, and then finishes its requests. Waits for an unreachable database.

        When cancelled, unfinished deliveries are due again at the end of their leases.
        """
        notifications = NotificationListener(
            self._engine.url.render_as_string(hide_password=False),
            (CHANNEL,),
            on_notification=lambda channel, payload: self._wake.set(),
            on_connection=self._wake.set,
        )
        async with notifications.running(), asyncio.TaskGroup() as tasks:
            while not self._is_stopping:
                self._wake.clear()
                wait_s = await self._begin_due(tasks)
                await _wait(self._wake, wait_s)

    def stop(self) -> None:
        """Claims no more deliveries."""
        self._is_stopping = True
        self._wake.set()

    async def _begin_due(self, tasks: asyncio.TaskGroup) -> float:
        """Starts as many due deliveries as there is room for; returns the seconds after which to look again."""
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
        return settings.idle_s if due_s is None else min(max(due_s, _MIN_WAIT_S), settings.idle_s)

    def _busy(self) -> list[str]:
        return [account for account, count in self._sending.items() if count >= self._settings.per_account]

    async def _deliver(self, claim: ClaimedDelivery) -> None:
        try:
            result = await self._attempt(claim)
            await self._settle(claim, result)
        # An error of one delivery must not end the others; it is due again after its lease.
        except _DATABASE_ERRORS as error:
            logger.warning("delivery %s waits for the database: %s", claim.id, _cause(error))
        except Exception:
            logger.exception("delivery %s failed unexpectedly", claim.id)
        finally:
            self._sending[claim.account] -= 1
            # Drops the keys of accounts without requests.
            self._sending += Counter()
            self._wake.set()

    async def _attempt(self, claim: ClaimedDelivery) -> AttemptResult:
        body = json.dumps(claim.payload, ensure_ascii=False, separators=(",", ":"))
        try:
            async with asyncio.timeout(self._settings.limits.attempt_s):
                secrets = [secret.text for secret in await self._secrets.of(claim.account)]
        except UnreadableSecretError as error:
            logger.error("delivery %s cannot be signed: %s", claim.id, error)
            return AttemptResult(error="this server cannot read the account's signing secret")
        headers = signed_headers(secrets, claim.id, datetime.now(UTC), body)
        return await self._client.post(claim.url, headers, body.encode())

    async def _settle(self, claim: ClaimedDelivery, answer: AttemptResult) -> None:
        """Records a result, retrying for as long as the lease lasts: a result that is lost is a message sent twice."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(_DATABASE_ERRORS),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=stop_after_delay(self._settings.lease_s),
            reraise=True,
        ):
            with attempt:
                state = await self._deliveries.settle(claim, answer)
        if state is not None:
            self._on_result(state)
        logger.info(
            "delivery %s, attempt %d: %s, %s",
            claim.id,
            claim.attempts,
            state or "lease lost",
            answer.error or "ok",
        )


def _cause(error: BaseException) -> BaseException:
    # The driver's message: SQLAlchemy's would show the statement.
    return getattr(error, "orig", None) or error


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
