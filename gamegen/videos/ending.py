"""How orders end, or go back into the queue: credits, webhooks and events in the same statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import TextClause, text

from gamegen.database.patience import Turn
from gamegen.videos import reading
from gamegen.videos.credits import SETTLED
from gamegen.videos.events import NOTIFIED, TOLD, WEBHOOKS_CHANNEL, WORK_CHANNEL
from gamegen.videos.leases import LOCKED, before, columns
from gamegen.videos.records import AlreadyEndedError, Completion, Failure, Generation
from gamegen.videos.states import FINAL, State
from gamegen.videos.tiers import QueueSettings

_FINAL = ", ".join(f"'{state}'" for state in sorted(FINAL))
_REAPED_AT_ONCE = 1000
_PARTS_PAID = "g.millicredits * least(g.step, g.num_steps) / g.num_steps"

DELIVERED = """
delivered as (
    insert into webhook_deliveries (id, generation_id, account, url, event, state)
    select 'msg_' || id, id, account, webhook_url, 'video.' || lower(state), 'pending'
    from moved where finished_at is not null and webhook_url is not null
    on conflict (id) do nothing
    returning id
)"""
"""A part of a statement: the webhook deliveries of rows of `moved` that have ended."""


def _ending(moved: str) -> TextClause:
    """A statement that ends what `moved` is."""
    return text(
        f"""
        with {moved}, {TOLD}, {SETTLED}, {DELIVERED}
        select moved.id, {NOTIFIED}, case when moved.finished_at is not null and moved.webhook_url is not null
            then pg_notify('{WEBHOOKS_CHANNEL}', '')::text end
        from moved join told on told.generation_id = moved.id
        """
    )


_COMPLETED = _ending(
    f"""
    {LOCKED}, moved as (
        update generations g set
            state = 'COMPLETED', worker = null, lease_until = null, finished_at = now(), step = g.num_steps,
            content_key = r.content_key, content_bytes = r.content_bytes, content_sha256 = r.content_sha256,
            frames_sha256 = r.frames_sha256, thumbnail_key = r.thumbnail_key
        from locked join jsonb_to_recordset(cast(:results as jsonb)) as r(
            id text, fence bigint, content_key text, content_bytes bigint, content_sha256 text,
            frames_sha256 text, thumbnail_key text) on r.id = locked.id and r.fence = locked.fence
        where g.id = locked.id and g.state = any(cast(:before as text[]))
        returning g.*, 0 as refund, jsonb_build_object() as data
    )"""
)

_ENDED = f"""
    moved as (
        update generations g set
            state = :state, worker = null, lease_until = null, finished_at = now(),
            millicredits = case when :state = 'FAILED' then 0 else {_PARTS_PAID} end,
            error_code = :code, error_message = :message
        from locked where g.id = locked.id and g.state = any(cast(:before as text[]))
        returning g.*, locked.millicredits - g.millicredits as refund,
            jsonb_strip_nulls(jsonb_build_object('code', cast(:code as text))) as data
    )"""
_ENDED_BY_WORKER = _ending(f"{LOCKED}, {_ENDED}")

_CANCELLED_WAITING = _ending(
    f"""
    locked as (
        select * from generations where id = :id and account = :account and worker is null for update
    ), {_ENDED}"""
)
_ASKED = text(
    """
    update generations set cancel_requested = true
    where id = :id and account = :account and worker is not null
    returning id
    """
)

# Whoever was asked to stop, stops here; what was tried often enough fails.
_AFTER = """
    case
        when locked.cancel_requested then 'CANCELLED'
        when :is_counted and locked.attempts >= :max_attempts then 'FAILED'
        when locked.state = 'ENCODING' then 'PENDING'
        else 'QUEUED'
    end"""
_GIVEN_UP = f"""
    decided as (
        select locked.*, {_AFTER} as next from locked
    ), moved as (
        update generations g set
            state = d.next, worker = null, lease_until = null,
            attempts = case when :is_counted then g.attempts else g.attempts - 1 end,
            available_at = now() + make_interval(secs => case when cast(:retry_s as float8) = 0 then 0
                else least(:max_retry_s, :retry_s * power(2, least(g.attempts, 30) - 1)) end),
            finished_at = case when d.next in ({_FINAL}) then now() end,
            millicredits = case d.next when 'FAILED' then 0 when 'CANCELLED' then {_PARTS_PAID}
                else g.millicredits end,
            error_code = case when d.next = 'FAILED' then cast(:code as text) end,
            error_message = case when d.next = 'FAILED' then cast(:message as text) end
        from decided d where g.id = d.id
        returning g.*, d.millicredits - g.millicredits as refund,
            jsonb_strip_nulls(jsonb_build_object('worker', d.worker, 'code', cast(:code as text))) as data
    )"""
_BACK = _ending(f"{LOCKED}, {_GIVEN_UP}")
_REAPED = _ending(
    f"""
    locked as (
        select * from generations where worker is not null and lease_until < coalesce(cast(:now as timestamptz), now())
        order by lease_until limit {_REAPED_AT_ONCE} for update skip locked
    ), {_GIVEN_UP}"""
)
_WAKE = text(
    f"""
    select pg_notify('{WORK_CHANNEL}', state)::text from unnest(array['PENDING', 'QUEUED']) as s(state)
    where exists (
        select from generations g where g.state = s.state and g.worker is null and g.available_at <= now()
    )
    """
)
_STATE = text("select state from generations where id = :id and fence = :fence")


async def complete(turn: Turn, completions: Sequence[Completion]) -> list[bool]:
    """COMPLETED, and paid for; False for those that were no longer the caller's."""
    rows = await turn.rows(
        _COMPLETED,
        results=json.dumps([{"id": c.id, "fence": c.fence, **asdict(c.result)} for c in completions]),
        before=before(State.COMPLETED),
        ids=[completion.id for completion in completions],
        fences=[completion.fence for completion in completions],
    )
    done = {row.id for row in rows}
    return [
        one.id in done or await _was_done(turn, one.id, one.fence, State.COMPLETED) for one in completions
    ]


async def fail(
    turn: Turn, settings: QueueSettings, generation_id: str, fence: int, failure: Failure, is_final: bool
) -> bool:
    """FAILED and paid back, or back into the queue for a while."""
    if is_final:
        return await _end(turn, generation_id, fence, State.FAILED, failure)
    rows = await turn.rows(
        _BACK,
        **columns({generation_id: fence}),
        **_giving_up(settings, is_counted=True, retry_s=settings.retry_s, failure=failure),
    )
    return bool(rows) or await _was_done(
        turn, generation_id, fence, State.PENDING, State.QUEUED, State.FAILED, State.CANCELLED
    )


async def block(turn: Turn, generation_id: str, fence: int, failure: Failure) -> bool:
    """BLOCKED: what was drawn is paid for."""
    return await _end(turn, generation_id, fence, State.BLOCKED, failure)


async def cancelled(turn: Turn, generation_id: str, fence: int) -> bool:
    """CANCELLED: what was drawn is paid for."""
    return await _end(turn, generation_id, fence, State.CANCELLED, None)


async def cancel(turn: Turn, generation_id: str, account: str) -> Generation:
    """By whoever ordered it; raises UnknownGenerationError or AlreadyEndedError."""
    ended = await turn.rows(
        _CANCELLED_WAITING,
        id=generation_id,
        account=account,
        state=State.CANCELLED.value,
        before=[State.PENDING.value, State.QUEUED.value],
        code=None,
        message=None,
    )
    asked = ended or await turn.rows(_ASKED, id=generation_id, account=account)
    generation = await reading.get(turn, generation_id, account)
    if asked or (turn.is_repeat and generation.state is State.CANCELLED):
        return generation
    if generation.state in FINAL:
        raise AlreadyEndedError(generation_id, generation.state)
    # It was claimed, or given back, between the two statements.
    return await cancel(turn, generation_id, account)


async def release(turn: Turn, settings: QueueSettings, held: Mapping[str, int]) -> frozenset[str]:
    """Given back by a worker that ends; not an attempt."""
    rows = await turn.rows(
        _BACK, **columns(held), **_giving_up(settings, is_counted=False, retry_s=0.0, failure=None)
    )
    return frozenset(row.id for row in rows)


async def reap(turn: Turn, settings: QueueSettings, now: datetime | None) -> int:
    """Takes orders from workers that said nothing for as long as their leases lasted."""
    lost = Failure("worker_lost", f"its worker was lost {settings.max_attempts} times in a row")
    values = _giving_up(settings, is_counted=True, retry_s=0.0, failure=lost)
    taken = 0
    while rows := await turn.rows(_REAPED, now=now, **values):
        taken += len(rows)
        if len(rows) < _REAPED_AT_ONCE:
            break
    await turn.rows(_WAKE)
    return taken


async def _end(turn: Turn, generation_id: str, fence: int, state: State, failure: Failure | None) -> bool:
    rows = await turn.rows(
        _ENDED_BY_WORKER,
        state=state.value,
        before=before(state),
        code=failure.code if failure else None,
        message=failure.message if failure else None,
        **columns({generation_id: fence}),
    )
    return bool(rows) or await _was_done(turn, generation_id, fence, state)


async def _was_done(turn: Turn, generation_id: str, fence: int, *states: State) -> bool:
    # By an earlier try, of which nobody heard.
    if not turn.is_repeat:
        return False
    rows = await turn.rows(_STATE, id=generation_id, fence=fence)
    return bool(rows) and rows[0].state in states


def _giving_up(
    settings: QueueSettings, is_counted: bool, retry_s: float, failure: Failure | None
) -> dict[str, object]:
    return {
        "is_counted": is_counted,
        "max_attempts": settings.max_attempts,
        "retry_s": float(retry_s),
        "max_retry_s": float(settings.max_retry_s),
        "code": failure.code if failure else None,
        "message": failure.message if failure else None,
    }
