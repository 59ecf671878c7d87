"""Events of orders: rows that stay, and notifications of them on the database's channels."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from gamegen.service.database.retrying import Attempt
from gamegen.service.database.tables import events
from gamegen.service.orders.records import Event
from gamegen.service.orders.states import State

VIDEOS_CHANNEL = "gamegen_videos"
"""Notified of every event, with the JSON {"id", "event", "state"}."""
WORK_CHANNEL = "gamegen_work"
"""Notified with PENDING or QUEUED when an order can be claimed in that state."""


async def events_after(attempt: Attempt, generation_id: str, event_id: int, limit: int) -> Sequence[Event]:
    """Up to `limit` events of an order with ids above `event_id`, the oldest first."""
    rows = await attempt.rows(
        select(events)
        .where(events.c.generation_id == generation_id, events.c.id > event_id)
        .order_by(events.c.id)
        .limit(limit)
    )
    return [
        Event(
            id=row.id,
            generation_id=row.generation_id,
            kind=row.kind,
            state=State(row.state),
            fence=row.fence,
            created_at=row.created_at,
            data=row.data,
        )
        for row in rows
    ]
