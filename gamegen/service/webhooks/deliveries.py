"""Webhook deliveries in the database: claims by senders, results, and retries.

A row is claimed for the time of a lease. `next_attempt_at` is then the end of the lease, so a row whose sender was lost
becomes due by itself. Times are the database's, so senders' clocks need not agree.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.service.database.tables import webhook_deliveries as table
from gamegen.service.webhooks.payload import payloads
from gamegen.service.webhooks.settings import RetrySettings
from gamegen.service.webhooks.webhook_client import AttemptResult

CHANNEL = "gamegen_webhooks"
"""Notified when a delivery is due."""
# Claims read only so many of the oldest due rows, so that a long queue does not slow them.
_MAX_READ = 500

# A literal, not a parameter: the planner then uses the partial index of pending rows.
_IS_PENDING = table.c.state == literal_column("'pending'")


class UnknownDeliveryError(LookupError):
    """The account has no delivery with this id."""


class DeliveryState(StrEnum):
    """State of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Given up after the last attempt; it can be redelivered by hand."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A delivery as its account sees it.

    `attempts` count since it was made or last redelivered; `status` and `error` are those of the last attempt.
    `next_attempt_at` is None unless it is pending.
    """

    id: str
    generation_id: str
    url: str
    event: str
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime | None
    status: int | None
    error: str | None
    created_at: datetime
    delivered_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class ClaimedDelivery:
    """A delivery to send now; `lease` is unique to this claim."""

    id: str
    account: str
    url: str
    payload: dict[str, Any]
    attempts: int
    lease: str


class Deliveries:
    """Queue of deliveries, in their table."""

    def __init__(self, engine: AsyncEngine, retries: RetrySettings) -> None:
        self._engine = engine
        self._retries = retries

    async def claim(
        self, limit: int, per_account: int, lease_s: float, busy: Collection[str] = ()
    ) -> list[ClaimedDelivery]:
        """Claims due deliveries, the oldest first: at most `per_account` of an account, none of accounts in `busy`."""
        lease = uuid.uuid4().hex
        picked = _due_rows(limit, per_account, busy).cte("picked")
        statement = (
            update(table)
            .where(table.c.id == picked.c.id)
            .values(self._claimed(lease, lease_s))
            .returning(
                table.c.id,
                table.c.generation_id,
                table.c.account,
                table.c.url,
                table.c.attempts,
                table.c.worker,
            )
        )
        async with self._engine.begin() as connection:
            rows = (await connection.execute(statement)).all()
            claimed = [row for row in rows if row.worker == lease]
            messages = await payloads(connection, {row.generation_id for row in claimed})
        return [
            ClaimedDelivery(
                id=row.id,
                account=row.account,
                url=row.url,
                payload=messages[row.generation_id],
                attempts=row.attempts,
                lease=lease,
            )
            for row in claimed
        ]

    async def settle(self, claim: ClaimedDelivery, answer: AttemptResult) -> DeliveryState | None:
        """Records the result of an attempt; returns the new state, or None if the lease was lost. Idempotent."""
        state = self._state_after(claim, answer)
        values: dict[str, Any] = {
            "state": state,
            "status": answer.status,
            "error": answer.error,
            "worker": None,
            "lease_until": None,
        }
        if state is DeliveryState.DELIVERED:
            values["delivered_at"] = func.now()
        if state is DeliveryState.PENDING:
            wait_s = self._retries.wait_s(claim.attempts, answer.wait_s)
            values["next_attempt_at"] = _seconds_from_now(wait_s)
        async with self._engine.begin() as connection:
            done = await connection.execute(
                update(table).where(table.c.id == claim.id, table.c.worker == claim.lease).values(values)
            )
        return state if done.rowcount else None

    async def next_due_s(self, busy: Collection[str] = ()) -> float | None:
        """Seconds until the next delivery is due, without accounts in `busy`; None if there is none."""
        first = func.extract("epoch", func.min(table.c.next_attempt_at) - func.clock_timestamp())
        query = select(first).where(_IS_PENDING, table.c.account.not_in(busy))
        async with self._engine.connect() as connection:
            wait_s = await connection.scalar(query)
        return None if wait_s is None else max(float(wait_s), 0.0)

    async def of(self, generation_id: str, account: str) -> list[Delivery]:
        """Deliveries of an order, the oldest first; empty if the order is another account's."""
        query = (
            select(table)
            .where(table.c.generation_id == generation_id, table.c.account == account)
            .order_by(table.c.created_at, table.c.id)
        )
        async with self._engine.connect() as connection:
            return [_delivery(row) for row in await connection.execute(query)]

    async def redeliver(self, id: str, account: str) -> Delivery:
        """Makes a delivery due again, with all its attempts; raises UnknownDeliveryError.

        One that is being sent at the moment is not changed.
        """
        mine = and_(table.c.id == id, table.c.account == account)
        is_free = or_(table.c.worker.is_(None), table.c.lease_until <= func.now())
        async with self._engine.begin() as connection:
            await connection.execute(
                update(table)
                .where(mine, is_free)
                .values(
                    state=DeliveryState.PENDING,
                    attempts=0,
                    next_attempt_at=func.now(),
                    worker=None,
                    lease_until=None,
                )
            )
            row = (await connection.execute(select(table).where(mine))).first()
            if row is None:
                raise UnknownDeliveryError(f"there is no webhook delivery {id!r}")
            await connection.execute(select(func.pg_notify(CHANNEL, "")))
        return _delivery(row)

    def _state_after(self, claim: ClaimedDelivery, answer: AttemptResult) -> DeliveryState:
        if answer.is_delivered:
            return DeliveryState.DELIVERED
        is_last = answer.is_final or claim.attempts >= self._retries.attempts
        return DeliveryState.FAILED if is_last else DeliveryState.PENDING

    def _claimed(self, lease: str, lease_s: float) -> dict[str, Any]:
        """New values of a claimed row. If its last attempt ended without a result it fails instead: a message that
        kills its senders is not sent for ever."""
        is_lost = and_(table.c.worker.is_not(None), table.c.attempts >= self._retries.attempts)
        end = _seconds_from_now(lease_s)
        lost = "the sender died in the last attempt: the message may have arrived"
        return {
            "state": case((is_lost, DeliveryState.FAILED), else_=table.c.state),
            "status": case((is_lost, None), else_=table.c.status),
            "error": case((is_lost, lost), else_=table.c.error),
            "worker": case((is_lost, None), else_=lease),
            "lease_until": case((is_lost, None), else_=end),
            "next_attempt_at": end,
            "attempts": case((is_lost, table.c.attempts), else_=table.c.attempts + 1),
        }


def _due_rows(limit: int, per_account: int, busy: Collection[str]):
    """Selects and locks ids of due rows, skipping rows that others have locked."""
    oldest = (
        select(table.c.id, table.c.account, table.c.next_attempt_at)
        .where(_is_due(), table.c.account.not_in(busy))
        .order_by(table.c.next_attempt_at)
        .limit(_MAX_READ)
        .subquery()
    )
    place = func.row_number().over(partition_by=oldest.c.account, order_by=oldest.c.next_attempt_at)
    placed = select(oldest.c.id, place.label("place")).subquery()
    fair = select(placed.c.id).where(placed.c.place <= per_account).scalar_subquery()
    return (
        select(table.c.id)
        # The array is evaluated once and its rows found by id; a join would read all due rows.
        .where(table.c.id == func.any(func.array(fair)))
        # Checked again on the locked row, which another sender may have claimed since.
        .where(_is_due())
        .order_by(table.c.next_attempt_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def _is_due() -> ColumnElement[bool]:
    return and_(_IS_PENDING, table.c.next_attempt_at <= func.now())


def _seconds_from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _delivery(row: Row) -> Delivery:
    state = DeliveryState(row.state)
    return Delivery(
        id=row.id,
        generation_id=row.generation_id,
        url=row.url,
        event=row.event,
        state=state,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at if state is DeliveryState.PENDING else None,
        status=row.status,
        error=row.error,
        created_at=row.created_at,
        delivered_at=row.delivered_at,
    )
