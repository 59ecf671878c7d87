"""What is known of orders, and of the queue as a whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Row, func, literal, select, text, tuple_, update

from gamegen.database.patience import Turn
from gamegen.database.tables import generations
from gamegen.videos.order import Order, Tier
from gamegen.videos.records import (
    Failure,
    Generation,
    QueueStats,
    Result,
    TierStats,
    UnknownGenerationError,
)
from gamegen.videos.states import State

_MOST_LISTED = 1000
_STATS = text(
    """
    select tier,
        count(*) filter (where state = 'PENDING') as pending,
        count(*) filter (where state = 'QUEUED') as queued,
        count(*) filter (where worker is not null) as leased,
        coalesce(extract(epoch from now() - min(created_at) filter (where state = 'QUEUED')), 0) as oldest_s
    from generations where finished_at is null
    group by tier
    """
)


async def get(turn: Turn, generation_id: str, account: str | None) -> Generation:
    """One order; raises UnknownGenerationError."""
    query = select(generations).where(generations.c.id == generation_id)
    if account is not None:
        query = query.where(generations.c.account == account)
    rows = await turn.rows(query)
    if not rows:
        raise UnknownGenerationError(generation_id)
    return generation_of(rows[0])


async def list_of(
    turn: Turn,
    account: str,
    states: Collection[State],
    limit: int,
    offset: int,
    after: str | None = None,
    is_oldest_first: bool = False,
) -> tuple[Sequence[Generation], int]:
    """An account's orders, those that come `after` one of them, and how many there are in all."""
    if not 1 <= limit <= _MOST_LISTED or offset < 0:
        raise ValueError(f"limit = {limit}, offset = {offset}: list 1 to {_MOST_LISTED}, from 0 on")
    condition = generations.c.account == account
    if states:
        condition &= generations.c.state.in_(sorted(states))
    age = tuple_(generations.c.created_at, generations.c.id)
    wanted = condition
    if after is not None:
        seen = await get(turn, after, account)
        last = tuple_(literal(seen.created_at), literal(seen.id))
        wanted &= age > last if is_oldest_first else age < last
    order = (generations.c.created_at, generations.c.id)
    rows = await turn.rows(
        select(generations)
        .where(wanted)
        .order_by(*(order if is_oldest_first else (column.desc() for column in order)))
        .limit(limit)
        .offset(offset)
    )
    counted = await turn.rows(select(func.count()).select_from(generations).where(condition))
    return [generation_of(row) for row in rows], counted[0][0]


async def keep(turn: Turn, generation_id: str, account: str, is_kept: bool) -> Generation:
    """Whether it is kept for good; raises UnknownGenerationError."""
    rows = await turn.rows(
        update(generations)
        .where(generations.c.id == generation_id, generations.c.account == account)
        .values(is_kept=is_kept)
        .returning(generations)
    )
    if not rows:
        raise UnknownGenerationError(generation_id)
    return generation_of(rows[0])


async def expire(turn: Turn, generation_id: str, account: str) -> Generation:
    """Lets a clip's files go before their time; nothing happens to an order that has none."""
    await turn.connection.execute(
        update(generations)
        .where(
            generations.c.id == generation_id,
            generations.c.account == account,
            generations.c.state == State.COMPLETED,
            generations.c.expired_at.is_(None),
        )
        .values(expired_at=func.now(), is_kept=False)
    )
    return await get(turn, generation_id, account)


async def stats(turn: Turn) -> QueueStats:
    """Unfinished orders, by tier."""
    tiers = {tier: TierStats() for tier in Tier}
    for row in await turn.rows(_STATS):
        tiers[Tier(row.tier)] = TierStats(row.pending, row.queued, row.leased, float(row.oldest_s))
    return QueueStats(tiers)


def generation_of(row: Row, order: Order | None = None) -> Generation:
    """A row of the table; `order` is what it orders, if that is known."""
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
