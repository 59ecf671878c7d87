"""Reads orders and the state of the queue, and changes how long a clip is kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Row, func, literal, select, tuple_, update

from gamegen.service.database.retrying import Attempt
from gamegen.service.database.tables import generations
from gamegen.service.orders.order import Order, Tier
from gamegen.service.orders.records import (
    Failure,
    Generation,
    QueueStats,
    Result,
    TierStats,
    UnknownGenerationError,
)
from gamegen.service.orders.statements import statement
from gamegen.service.orders.states import State

_MAX_LISTED = 1000
_COUNT_UNFINISHED = statement("count_unfinished")


async def get(attempt: Attempt, generation_id: str, account: str | None) -> Generation:
    """An order of an account, or of any if it is None; raises UnknownGenerationError."""
    query = select(generations).where(generations.c.id == generation_id)
    if account is not None:
        query = query.where(generations.c.account == account)
    rows = await attempt.rows(query)
    if not rows:
        raise UnknownGenerationError(generation_id)
    return generation_of(rows[0])


async def list_of(
    attempt: Attempt,
    account: str,
    states: Collection[State],
    limit: int,
    offset: int,
    after: str | None = None,
    is_oldest_first: bool = False,
) -> tuple[Sequence[Generation], int]:
    """A page of an account's orders, and the number of all of them; `after` is the id that the page follows."""
    if not 1 <= limit <= _MAX_LISTED or offset < 0:
        raise ValueError(
            f"limit = {limit}, offset = {offset}: limit must be 1 to {_MAX_LISTED}, offset at least 0"
        )
    condition = generations.c.account == account
    if states:
        condition &= generations.c.state.in_(sorted(states))
    age = tuple_(generations.c.created_at, generations.c.id)
    wanted = condition
    if after is not None:
        seen = await get(attempt, after, account)
        last = tuple_(literal(seen.created_at), literal(seen.id))
        wanted &= age > last if is_oldest_first else age < last
    order = (generations.c.created_at, generations.c.id)
    rows = await attempt.rows(
        select(generations)
        .where(wanted)
        .order_by(*(order if is_oldest_first else (column.desc() for column in order)))
        .limit(limit)
        .offset(offset)
    )
    counted = await attempt.rows(select(func.count()).select_from(generations).where(condition))
    return [generation_of(row) for row in rows], counted[0][0]


async def keep(attempt: Attempt, generation_id: str, account: str, is_kept: bool) -> Generation:
    """Sets whether a clip is exempt from retention; raises UnknownGenerationError."""
    rows = await attempt.rows(
        update(generations)
        .where(generations.c.id == generation_id, generations.c.account == account)
        .values(is_kept=is_kept)
        .returning(generations)
    )
    if not rows:
        raise UnknownGenerationError(generation_id)
    return generation_of(rows[0])


async def expire(attempt: Attempt, generation_id: str, account: str) -> Generation:
    """Marks a finished clip as expired, so that retention removes its files."""
    await attempt.connection.execute(
        update(generations)
        .where(
            generations.c.id == generation_id,
            generations.c.account == account,
            generations.c.state == State.COMPLETED,
            generations.c.expired_at.is_(None),
        )
        .values(expired_at=func.now(), is_kept=False)
    )
    return await get(attempt, generation_id, account)


async def stats(attempt: Attempt) -> QueueStats:
    """Numbers of unfinished orders, by tier."""
    tiers = {tier: TierStats() for tier in Tier}
    for row in await attempt.rows(_COUNT_UNFINISHED):
        tiers[Tier(row.tier)] = TierStats(row.pending, row.queued, row.leased, float(row.oldest_s))
    return QueueStats(tiers)


def generation_of(row: Row, order: Order | None = None) -> Generation:
    """The record of a row; `order` saves parsing its JSON where the caller has it."""
    failure = Failure(row.error_code, row.error_message) if row.error_code else None
    return Generation(
        id=row.id,
        account=row.account,
        state=State(row.state),
        tier=Tier(row.tier),
        priority=row.priority,
        order=order or Order.from_dict(row.order),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        attempts=row.attempts,
        fence=row.fence,
        step=row.step,
        num_steps=row.num_steps,
        step_ms=row.step_ms,
        cancel_requested=row.cancel_requested,
        is_kept=row.is_kept,
        expired_at=row.expired_at,
        webhook_url=row.webhook_url,
        request_id=row.request_id,
        failure=failure,
        result=_result(row),
        millicredits=row.millicredits,
    )


def _result(row: Row) -> Result | None:
    if row.content_key is None:
        return None
    return Result(
        content_key=row.content_key,
        content_bytes=row.content_bytes,
        content_sha256=row.content_sha256,
        frames_sha256=row.frames_sha256,
        thumbnail_key=row.thumbnail_key,
    )
