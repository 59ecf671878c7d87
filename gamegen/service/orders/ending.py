"""Ends of orders, and their returns to the queue: credits, webhooks and events in one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from gamegen.service.database.retrying import Attempt
from gamegen.service.orders import reading
from gamegen.service.orders.leases import held_columns
from gamegen.service.orders.records import AlreadyEndedError, Completion, Failure, Generation
from gamegen.service.orders.statements import statement
from gamegen.service.orders.states import FINAL, State, states_before
from gamegen.service.orders.tiers import QueueSettings

_MAX_REAPED = 1000
_COMPLETE = statement("complete")
_END = statement("end")
_CANCEL_WAITING = statement("cancel_waiting")
_REQUEST_CANCEL = statement("request_cancel")
_GIVE_BACK = statement("give_back")
_REAP = statement("reap")
_WAKE_WORKERS = statement("wake_workers")
_STATE_OF_FENCE = statement("state_of_fence")


async def complete(attempt: Attempt, completions: Sequence[Completion]) -> list[bool]:
    """Ends orders as COMPLETED; False for each that its worker no longer holds."""
    rows = await attempt.rows(
        _COMPLETE,
        results=json.dumps([{"id": c.id, "fence": c.fence, **asdict(c.result)} for c in completions]),
        before=states_before(State.COMPLETED),
        ids=[completion.id for completion in completions],
        fences=[completion.fence for completion in completions],
    )
    done = {row.id for row in rows}
    return [
        one.id in done or await _was_done_before(attempt, one.id, one.fence, State.COMPLETED)
        for one in completions
    ]


async def fail(
    attempt: Attempt,
    settings: QueueSettings,
    generation_id: str,
    fence: int,
    failure: Failure,
    is_final: bool,
) -> bool:
    """Ends an order as FAILED, with a refund, or puts it back into the queue with a delay."""
    if is_final:
        return await _end(attempt, generation_id, fence, State.FAILED, failure)
    rows = await attempt.rows(
        _GIVE_BACK,
        **held_columns({generation_id: fence}),
        **_give_back_values(settings, is_counted=True, retry_s=settings.retry_s, failure=failure),
    )
    return bool(rows) or await _was_done_before(
        attempt, generation_id, fence, State.PENDING, State.QUEUED, State.FAILED, State.CANCELLED
    )


async def block(attempt: Attempt, generation_id: str, fence: int, failure: Failure) -> bool:
    """Ends an order as BLOCKED; steps that were done are paid for."""
    return await _end(attempt, generation_id, fence, State.BLOCKED, failure)


async def cancelled(attempt: Attempt, generation_id: str, fence: int) -> bool:
    """Ends an order as CANCELLED; steps that were done are paid for."""
    return await _end(attempt, generation_id, fence, State.CANCELLED, None)


async def cancel(attempt: Attempt, generation_id: str, account: str) -> Generation:
    """Cancels an order for its account; raises UnknownGenerationError or AlreadyEndedError."""
    ended = await attempt.rows(
        _CANCEL_WAITING,
        id=generation_id,
        account=account,
        state=State.CANCELLED.value,
        before=[State.PENDING.value, State.QUEUED.value],
        code=None,
        message=None,
    )
    asked = ended or await attempt.rows(_REQUEST_CANCEL, id=generation_id, account=account)
    generation = await reading.get(attempt, generation_id, account)
    if asked or (attempt.is_repeat and generation.state is State.CANCELLED):
        return generation
    if generation.state in FINAL:
        raise AlreadyEndedError(generation_id, generation.state)
    # A worker claimed the order, or gave it back, between the two statements.
    return await cancel(attempt, generation_id, account)


async def release(attempt: Attempt, settings: QueueSettings, held: Mapping[str, int]) -> frozenset[str]:
    """Puts orders of a worker that ends back into the queue, without counting an attempt."""
    rows = await attempt.rows(
        _GIVE_BACK,
        **held_columns(held),
        **_give_back_values(settings, is_counted=False, retry_s=0.0, failure=None),
    )
    return frozenset(row.id for row in rows)


async def reap(attempt: Attempt, settings: QueueSettings, now: datetime | None) -> int:
    """Puts orders whose leases have expired back into the queue, or ends them; returns their number."""
    lost = Failure("worker_lost", f"its worker was lost {settings.max_attempts} times in a row")
    values = _give_back_values(settings, is_counted=True, retry_s=0.0, failure=lost)
    count = 0
    while rows := await attempt.rows(_REAP, now=now, limit=_MAX_REAPED, **values):
        count += len(rows)
        if len(rows) < _MAX_REAPED:
            break
    await attempt.rows(_WAKE_WORKERS)
    return count


async def _end(
    attempt: Attempt, generation_id: str, fence: int, state: State, failure: Failure | None
) -> bool:
    rows = await attempt.rows(
        _END,
        state=state.value,
        before=states_before(state),
        code=failure.code if failure else None,
        message=failure.message if failure else None,
        **held_columns({generation_id: fence}),
    )
    return bool(rows) or await _was_done_before(attempt, generation_id, fence, state)


async def _was_done_before(attempt: Attempt, generation_id: str, fence: int, *states: State) -> bool:
    # True if an earlier attempt did it and its answer was lost.
    if not attempt.is_repeat:
        return False
    rows = await attempt.rows(_STATE_OF_FENCE, id=generation_id, fence=fence)
    return bool(rows) and rows[0].state in states


def _give_back_values(
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
