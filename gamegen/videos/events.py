"""What happened to orders: rows that stay, and notifications for those who listen now."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from gamegen.database.patience import Turn
from gamegen.database.tables import events
from gamegen.videos.records import Event
from gamegen.videos.states import State

VIDEOS_CHANNEL = "gamegen_videos"
"""Says {"id", "event", "state"} of every event."""
WORK_CHANNEL = "gamegen_work"
"""Says PENDING or QUEUED when there is work for who encodes or who generates."""
WEBHOOKS_CHANNEL = "gamegen_webhooks"
"""Says nothing but that a webhook is to be delivered."""

TOLD = """
told as (
    insert into events (generation_id, kind, state, fence, data)
    select id, 'state', state, fence, data from moved
    returning id as event_id, generation_id
)"""
"""A part of a statement: writes an event for each row of `moved` (id, state, fence, data)."""

NOTIFIED = f"""
pg_notify('{VIDEOS_CHANNEL}',
    json_build_object('id', moved.id, 'event', told.event_id, 'state', moved.state)::text)::text,
case when moved.state in ('PENDING', 'QUEUED') then pg_notify('{WORK_CHANNEL}', moved.state)::text end"""
"""What such a statement selects from `moved` and `told` to notify those who listen."""


async def after(turn: Turn, generation_id: str, event_id: int, limit: int) -> Sequence[Event]:
    """Events of an order after one of them, the oldest first."""
    rows = await turn.rows(
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
