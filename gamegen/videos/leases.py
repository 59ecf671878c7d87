"""What a worker says of the orders it has: every statement asks whether it still has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import text

from gamegen.database.patience import Turn
from gamegen.videos.events import NOTIFIED, TOLD, VIDEOS_CHANNEL
from gamegen.videos.records import Beat, Verdict
from gamegen.videos.states import LEASED, TRANSITIONS, State, TransitionError, check_transition

# Rows are locked in one order, so that two calls about the same orders never wait for each other.
LOCKED = """
locked as (
    select g.*
    from generations g
    join unnest(cast(:ids as text[]), cast(:fences as bigint[])) as held(id, held_fence)
        on g.id = held.id and g.fence = held.held_fence
    where g.worker is not null
    order by g.id for update of g
)"""
"""A part of a statement: orders of :ids that are still held by :fences."""

_MOVED = f"""
with {LOCKED}, moved as (
    update generations g set state = :state, %s
    from locked where g.id = locked.id and locked.state = any(cast(:before as text[]))
    returning g.id, g.state, g.fence, jsonb_build_object() as data
), {TOLD}
select moved.id, {NOTIFIED} from moved join told on told.generation_id = moved.id
union all
-- What an earlier try did.
select g.id, null, null
from generations g
join unnest(cast(:ids as text[]), cast(:fences as bigint[])) as held(id, held_fence)
    on g.id = held.id and g.fence = held.held_fence
where g.state = :state
"""
_ENTERED = text(
    f"""
    with said as (
        select * from unnest(cast(:ids as text[]), cast(:fences as bigint[]), cast(:states as text[]))
            as said(id, held_fence, next)
    ), locked as (
        select g.id, g.state, said.next
        from generations g join said on g.id = said.id and g.fence = said.held_fence
        where g.worker is not null
        order by g.id for update of g
    ), moved as (
        -- What is decoded has been drawn to its end, though nobody told the last steps.
        update generations g set state = locked.next,
            step = case when locked.next = 'VAE_DECODING' then g.num_steps else g.step end
        from locked where g.id = locked.id and locked.state || '>' || locked.next = any(cast(:steps as text[]))
        returning g.id, g.state, g.fence, jsonb_build_object() as data
    ), {TOLD}
    select moved.id, moved.fence, moved.state, {NOTIFIED}
    from moved join told on told.generation_id = moved.id
    union all
    -- What an earlier try did, or what cannot be done.
    select g.id, g.fence, g.state, null, null
    from generations g join said on g.id = said.id and g.fence = said.held_fence
    where g.state = said.next or g.worker is not null and not g.state || '>' || said.next = any(cast(:steps as text[]))
    """
)
_ENCODED = text(_MOVED % "worker = null, lease_until = null, attempts = 0, available_at = now()")

_STEPS = [f"{state}>{after}" for state, follow in TRANSITIONS.items() for after in follow]

# Of what is said often, the last half second may be lost with the server: nobody waits until the disk has it.
_NOT_WAITED_FOR = "set_config('synchronous_commit', 'off', true)"
_HEARTBEAT = text(
    f"""
    with {LOCKED}
    update generations g set lease_until = now() + make_interval(secs => :lease_s)
    from locked where g.id = locked.id and locked.worker = :worker
    returning g.id, g.cancel_requested, {_NOT_WAITED_FOR}
    """
)

_PROGRESS = text(
    f"""
    with {LOCKED}, moved as (
        update generations g set step = least(said.step, g.num_steps), step_ms = said.step_ms
        from locked, unnest(cast(:ids as text[]), cast(:steps as int[]), cast(:step_ms as float8[]))
            as said(id, step, step_ms)
        where g.id = locked.id and said.id = g.id
        returning g.id, g.state, g.fence, g.step, g.num_steps, g.step_ms, g.cancel_requested
    ), told as (
        insert into events (generation_id, kind, state, fence, data)
        select id, 'progress', state, fence,
            jsonb_build_object('step', step, 'num_steps', num_steps, 'step_ms', step_ms)
        from moved
        returning id as event_id, generation_id
    )
    select moved.id, cancel_requested, {NOTIFIED}, {_NOT_WAITED_FOR}
    from moved join told on told.generation_id = moved.id
    """
)

_CHECKPOINTED = text(
    f"""
    with {LOCKED}, kept as (
        insert into checkpoints (generation_id, step, fence, key, size_bytes)
        select id, :step, fence, :key, :size_bytes from locked
        on conflict (generation_id, step) do update
            set fence = excluded.fence, key = excluded.key, size_bytes = excluded.size_bytes
        returning generation_id
    ), told as (
        insert into events (generation_id, kind, state, fence, data)
        select id, 'checkpoint', state, fence, jsonb_build_object('step', cast(:step as int)) from locked
        returning id as event_id, generation_id, state
    )
    select kept.generation_id, pg_notify('{VIDEOS_CHANNEL}',
        json_build_object('id', kept.generation_id, 'event', told.event_id, 'state', told.state)::text)::text
    from kept join told on told.generation_id = kept.generation_id
    """
)

_AUDIT = text(
    """
    insert into safety_audit (
        generation_id, subject, checker, score, threshold, is_allowed, reason, created_at)
    select v.generation_id, v.subject, v.checker, v.score, v.threshold, v.is_allowed, v.reason, v.at
    from jsonb_to_recordset(cast(:verdicts as jsonb)) as v(
        position int, generation_id text, at timestamptz, subject text, checker text, score float8, threshold float8,
        is_allowed boolean, reason text)
    -- Unless an earlier try has.
    where not exists (
        select from safety_audit a where a.generation_id = v.generation_id and a.created_at = v.at
    )
    order by v.position
    """
)


@dataclass(frozen=True)
class Entry:
    """An order of a worker, held by a fence, that enters a state."""

    id: str
    fence: int
    state: State


Entered = State | Literal[False]
"""The state in which an order is now; False if it is no longer the caller's."""


@dataclass(frozen=True)
class Audited:
    """What was found of an order, and when."""

    id: str
    at: datetime
    verdicts: Sequence[Verdict]


def before(after: State) -> list[str]:
    """The states that `after` may follow."""
    return [state.value for state in State if _may_follow(state, after)]


def columns(held: Mapping[str, int]) -> dict[str, list]:
    """{id: fence} as a statement's values."""
    return {"ids": list(held), "fences": list(held.values())}


async def encoded(turn: Turn, held: Mapping[str, int]) -> frozenset[str]:
    """ENCODING becomes QUEUED, and nobody's."""
    return await _move(turn, _ENCODED, held, State.QUEUED, [State.ENCODING.value])


def check_entered(state: State) -> None:
    """Raises TransitionError for a state that nobody enters by `advance`."""
    if state not in LEASED - {State.ENCODING, State.ASSIGNED}:
        raise TransitionError(
            f"a worker does not advance to {state}: orders are claimed, completed or failed"
        )


async def advance(turn: Turn, entries: Sequence[Entry]) -> list[Entered]:
    """What became of each."""
    rows = await turn.rows(
        _ENTERED,
        ids=[entry.id for entry in entries],
        fences=[entry.fence for entry in entries],
        states=[entry.state.value for entry in entries],
        steps=_STEPS,
    )
    found = {(row.id, row.fence): State(row.state) for row in rows}
    return [found.get((entry.id, entry.fence), False) for entry in entries]


def entered(entries: Sequence[Entry], found: Sequence[Entered]) -> frozenset[str]:
    """The ids of those that are still the caller's; raises TransitionError for one that could not go there."""
    for entry, state in zip(entries, found, strict=True):
        if state and state is not entry.state:
            check_transition(state, entry.state)
    return frozenset(entry.id for entry, state in zip(entries, found, strict=True) if state is entry.state)


async def heartbeat(turn: Turn, worker: str, held: Mapping[str, int], lease_s: float) -> Beat:
    """Leases end in `lease_s` again."""
    rows = await turn.rows(_HEARTBEAT, worker=worker, lease_s=float(lease_s), **columns(held))
    return _beat(held, rows)


async def progress(turn: Turn, steps: Mapping[str, tuple[int, int, float]]) -> Beat:
    """{id: (fence, step, milliseconds a step)}."""
    rows = await turn.rows(
        _PROGRESS,
        ids=list(steps),
        fences=[fence for fence, _, _ in steps.values()],
        steps=[step for _, step, _ in steps.values()],
        step_ms=[float(step_ms) for _, _, step_ms in steps.values()],
    )
    return _beat(steps, rows)


async def checkpointed(
    turn: Turn, generation_id: str, fence: int, step: int, key: str, size_bytes: int
) -> bool:
    """Notes a checkpoint; False if the order is no longer the caller's."""
    rows = await turn.rows(
        _CHECKPOINTED, step=step, key=key, size_bytes=size_bytes, **columns({generation_id: fence})
    )
    return bool(rows)


async def audit(turn: Turn, audited: Sequence[Audited]) -> None:
    """One row for each verdict."""
    said = [
        asdict(verdict) | {"generation_id": one.id, "at": one.at.isoformat(), "position": position}
        for one in audited
        for position, verdict in enumerate(one.verdicts)
    ]
    await turn.connection.execute(_AUDIT, {"verdicts": json.dumps(said)})


async def _move(
    turn: Turn, statement, held: Mapping[str, int], state: State, from_states: Sequence[str]
) -> frozenset[str]:
    rows = await turn.rows(statement, state=state.value, before=list(from_states), **columns(held))
    return frozenset(row.id for row in rows)


def _beat(held: Mapping[str, object], rows: Sequence) -> Beat:
    return Beat(
        lost=frozenset(held) - {row.id for row in rows},
        cancelled=frozenset(row.id for row in rows if row.cancel_requested),
    )


def _may_follow(state: State, after: State) -> bool:
    try:
        check_transition(state, after)
    except TransitionError:
        return False
    return True
