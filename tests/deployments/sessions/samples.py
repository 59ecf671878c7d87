"""Sessions to store."""

from __future__ import annotations

from deployments.sessions.session_record import SessionRecord
from deployments.sessions.store import SessionStore
from gamegen.sessions.log import WorldSpec

SPEC = WorldSpec(
    model="nano",
    prompt="desert at noon",
    perspective="first",
    seed=7,
    width=160,
    height=96,
    first_frames=b"\x89PNG\xff\x00",
)


async def enter(store: SessionStore, name: str = "a") -> SessionRecord:
    """Enters a session, one of at most three."""
    record, _ = SessionRecord.new(name, SPEC)
    await store.create(record, 3)
    return record
