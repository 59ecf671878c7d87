"""Deliveries in the database: who sends which, what became of it, and when it is tried again.

A row is claimed for a time, its lease. `next_attempt_at` is then the end of that lease, so a row whose sender was lost
comes due by itself. Times are the database's own: senders' clocks need not agree.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.database.tables import webhook_deliveries as table
from gamegen.webhooks.payload import payloads
from gamegen.webhooks.posting import Answer

CHANNEL = "gamegen_webhooks"
"""Notified when a delivery is due at once."""
# Claims look at this many of the oldest that are due, so that a long queue does not slow them.
_LOOKED_AT = 500


# Spelled out, not as a parameter: so the planner sees that the index of pending ones will do.
_IS_PENDING = table.c.state == literal_column("'pending'")


class UnknownDeliveryError(LookupError):
    """The account has no delivery of this id."""


class DeliveryState(StrEnum):
    """What has become of a message."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """It was given up; it can be sent again by hand."""


@dataclass(frozen=True)
class RetrySettings:
    """The wait after attempt n is about `first_s` x `factor`^(n-1) seconds, at most `most_s`; half of it is chance.

    After `attempts` in vain it is given up. With the defaults that is a day and a half after the first.
    """

    attempts: int = 10
    first_s: float = 5.0
    factor: float = 4.0
    most_s: float = 12 * 3600.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 100:
            raise ValueError(f"attempts is {self.attempts}: it must be 1 to 100")
        if self.first_s <= 0 or self.most_s < self.first_s:
            raise ValueError(
                f"first_s is {self.first_s}: it must be above 0 and at most most_s ({self.most_s})"
            )
        if not 1 <= self.factor <= 10:
            raise ValueError(f"factor is {self.factor}: it must be 1 to 10")

    def wait_s(self, attempts: int, asked_s: float) -> float:
        """Seconds until the next one after so many; `asked_s` is what the receiver asked for."""
        wait_s = min(self.first_s * self.factor ** (attempts - 1), self.most_s)
        return min(max(wait_s * random.uniform(0.5, 1.0), asked_s), self.most_s)


@dataclass(frozen=True)
class Delivery:
    """A message as its account may see it.

    `attempts` were made since it was written or last asked for again; `status` and `error` are the last one's.
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


@dataclass(frozen=True)
class ClaimedDelivery:
    """A message to send now; `lease` tells this claim from every other of the same message."""

    id: str
    account: str
    url: str
    payload: dict[str, Any]
    attempts: int
    lease: str


class Deliveries:
    """The table of deliveries."""

    def __init__(self, engine: AsyncEngine, retries: RetrySettings) -> None:
        self._engine, self._retries = engine, retries

    async def claim(
        self, limit: int, per_account: int, lease_s: float, busy: Collection[str] = ()
    ) -> list[ClaimedDelivery]:
        """Takes what is due, the oldest first: at most `per_account` of each account, none of those in `busy`."""
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
            ClaimedDelivery(row.id, row.account, row.url, messages[row.generation_id], row.attempts, lease)
            for row in claimed
        ]

    async def settle(self, claim: ClaimedDelivery, answer: Answer) -> DeliveryState | None:
        """Writes down how an attempt ended; None if the claim no longer holds, and nothing is written.

        Doing it twice, as after a broken connection, is the same as once.
        """
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
        """Seconds until the next one is due, 0 if one is; those of accounts in `busy` do not count."""
        first = func.extract("epoch", func.min(table.c.next_attempt_at) - func.clock_timestamp())
        query = select(first).where(_IS_PENDING, table.c.account.not_in(busy))
        async with self._engine.connect() as connection:
            wait_s = await connection.scalar(query)
        return None if wait_s is None else max(float(wait_s), 0.0)

    async def of(self, generation_id: str, account: str) -> list[Delivery]:
        """All messages about an order, the oldest first; none if the order is another account's."""
        query = (
            select(table)
            .where(table.c.generation_id == generation_id, table.c.account == account)
            .order_by(table.c.created_at, table.c.id)
        )
        async with self._engine.connect() as connection:
            return [_delivery(row) for row in await connection.execute(query)]

    async def redeliver(self, id: str, account: str) -> Delivery:
        """Sends a message again, at once and with all retries, delivered or not; raises UnknownDeliveryError.

        One that is being sent just now is left to that.
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

    def _state_after(self, claim: ClaimedDelivery, answer: Answer) -> DeliveryState:
        if answer.is_delivered:
            return DeliveryState.DELIVERED
        is_last = answer.is_final or claim.attempts >= self._retries.attempts
        return DeliveryState.FAILED if is_last else DeliveryState.PENDING

    def _claimed(self, lease: str, lease_s: float) -> dict[str, Any]:
        """What a claim makes of a row. One whose last attempt was never answered for is given up instead: a message
        that kills its senders is not sent for ever."""
        is_lost = and_(table.c.worker.is_not(None), table.c.attempts >= self._retries.attempts)
        end = _seconds_from_now(lease_s)
        lost = "the sender was lost in the last attempt: it may have arrived"
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
    """Selects and locks ids. What others have locked is left out, not waited for."""
    oldest = (
        select(table.c.id, table.c.account, table.c.next_attempt_at)
        .where(_is_due(), table.c.account.not_in(busy))
        .order_by(table.c.next_attempt_at)
        .limit(_LOOKED_AT)
        .subquery()
    )
    place = func.row_number().over(partition_by=oldest.c.account, order_by=oldest.c.next_attempt_at)
    placed = select(oldest.c.id, place.label("place")).subquery()
    fair = select(placed.c.id).where(placed.c.place <= per_account).scalar_subquery()
    return (
        select(table.c.id)
        # An array is found once, and its rows by their ids; a join would read all that is due.
        .where(table.c.id == func.any(func.array(fair)))
        # Asked again of the locked row: another may have claimed it since.
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
