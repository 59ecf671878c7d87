"""Workers of the queue, and the time when each was last seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select

from gamegen.service.database.retrying import Attempt
from gamegen.service.database.tables import workers
from gamegen.service.orders.statements import statement

_WORKER_SEEN = statement("worker_seen")


@dataclass(frozen=True)
class Worker:
    """A process of a `kind`, such as generator or webhooks, on a node."""

    id: str
    kind: str
    node: str
    started_at: datetime
    seen_at: datetime


async def seen(attempt: Attempt, worker: str, kind: str, node: str) -> None:
    """Records that a worker is alive, and forgets workers not seen for a day."""
    await attempt.connection.execute(_WORKER_SEEN, {"id": worker, "kind": kind, "node": node})


async def gone(attempt: Attempt, worker: str) -> None:
    """Forgets a worker that has ended."""
    await attempt.connection.execute(delete(workers).where(workers.c.id == worker))


async def alive(attempt: Attempt, seen_within_s: float) -> Sequence[Worker]:
    """Workers seen within the last `seen_within_s` seconds."""
    since = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, float(seen_within_s))
    rows = await attempt.rows(select(workers).where(workers.c.seen_at >= since).order_by(workers.c.id))
    return [Worker(**row._mapping) for row in rows]
