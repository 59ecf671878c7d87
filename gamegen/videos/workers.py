"""Who works on orders, and when each was last heard of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select, text

from gamegen.database.patience import Turn
from gamegen.database.tables import workers


@dataclass(frozen=True)
class Worker:
    """A worker of a `kind`, such as generator or webhooks, on a node."""

    id: str
    kind: str
    node: str
    started_at: datetime
    seen_at: datetime


_SEEN = text(
    """
    with lost as (
        delete from workers where id in (
            select id from workers where seen_at < now() - interval '1 day' and id <> :id for update skip locked
        )
    )
    insert into workers (id, kind, node, started_at, seen_at) values (:id, :kind, :node, now(), now())
    on conflict (id) do update set seen_at = excluded.seen_at
    """
)


async def seen(turn: Turn, worker: str, kind: str, node: str) -> None:
    """Notes that it lives; those of which nothing was heard for a day are forgotten."""
    await turn.connection.execute(_SEEN, {"id": worker, "kind": kind, "node": node})


async def gone(turn: Turn, worker: str) -> None:
    """Forgets one that ended."""
    await turn.connection.execute(delete(workers).where(workers.c.id == worker))


async def alive(turn: Turn, seen_within_s: float) -> Sequence[Worker]:
    """Those that were seen lately."""
    since = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, float(seen_within_s))
    rows = await turn.rows(select(workers).where(workers.c.seen_at >= since).order_by(workers.c.id))
    return [Worker(**row._mapping) for row in rows]
