"""Reports of workers on the orders that they hold; each statement checks that the worker still holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from gamegen.service.database.retrying import Attempt
from gamegen.service.orders.records import LeaseStatus
from gamegen.service.orders.statements import statement
from gamegen.service.orders.states import LEASED, TRANSITIONS, State, TransitionError, check_transition
from gamegen.service.safety.verdict import SafetyVerdict

_FINISH_ENCODING = statement("finish_encoding")
_ADVANCE = statement("advance")
_HEARTBEAT = statement("heartbeat")
_PROGRESS = statement("progress")
_CHECKPOINT = statement("checkpoint")
_AUDIT = statement("audit")
_ALLOWED_STEPS = [f"{state}>{following}" for state, after in TRANSITIONS.items() for following in after]


@dataclass(frozen=True)
class Advance:
    """Move of an order, held by a fence, to the next stage of its work."""

    id: str
    fence: int
    state: State


AdvancedTo = State | Literal[False]
"""The state of an order after an `Advance`; False if its worker no longer holds it."""


@dataclass(frozen=True)
class AuditEntry:
    """Verdicts of the safety checks on an order, and their time."""

    id: str
    at: datetime
    verdicts: Sequence[SafetyVerdict]


def held_columns(held: Mapping[str, int]) -> dict[str, list]:
    """Parameters `ids` and `fences` of a statement from {id: fence}."""
    return {"ids": list(held), "fences": list(held.values())}


async def encoded(attempt: Attempt, held: Mapping[str, int]) -> frozenset[str]:
    """Moves orders from ENCODING to QUEUED and ends their leases; returns the ids of those moved."""
    rows = await attempt.rows(
        _FINISH_ENCODING,
        state=State.QUEUED.value,
        before=[State.ENCODING.value],
        **held_columns(held),
    )
    return frozenset(row.id for row in rows)


def check_advance(state: State) -> None:
    """Raises TransitionError for a state that is not entered by `advance`."""
    if state not in LEASED - {State.ENCODING, State.ASSIGNED}:
        raise TransitionError(
            f"a worker does not advance to {state}: orders are claimed, completed or failed"
        )


async def advance(attempt: Attempt, moves: Sequence[Advance]) -> list[AdvancedTo]:
    """Moves orders to the next stage of their work; returns the state of each."""
    rows = await attempt.rows(
        _ADVANCE,
        ids=[move.id for move in moves],
        fences=[move.fence for move in moves],
        states=[move.state.value for move in moves],
        steps=_ALLOWED_STEPS,
    )
    found = {(row.id, row.fence): State(row.state) for row in rows}
    return [found.get((move.id, move.fence), False) for move in moves]


def advanced(moves: Sequence[Advance], states: Sequence[AdvancedTo]) -> frozenset[str]:
    """Ids of orders that their worker still holds; raises TransitionError for a move that is not allowed."""
    for move, state in zip(moves, states, strict=True):
        if state and state is not move.state:
            check_transition(state, move.state)
    return frozenset(move.id for move, state in zip(moves, states, strict=True) if state is move.state)


async def heartbeat(attempt: Attempt, worker: str, held: Mapping[str, int], lease_s: float) -> LeaseStatus:
    """Extends the leases of orders to `lease_s` from now."""
    rows = await attempt.rows(_HEARTBEAT, worker=worker, lease_s=float(lease_s), **held_columns(held))
    return _lease_status(held, rows)


async def progress(attempt: Attempt, steps: Mapping[str, tuple[int, int, float]]) -> LeaseStatus:
    """Records {id: (fence, steps done, milliseconds a step)}."""
    rows = await attempt.rows(
        _PROGRESS,
        ids=list(steps),
        fences=[fence for fence, _, _ in steps.values()],
        steps=[step for _, step, _ in steps.values()],
        step_ms=[float(step_ms) for _, _, step_ms in steps.values()],
    )
    return _lease_status(steps, rows)


async def checkpointed(
    attempt: Attempt,
    generation_id: str,
    fence: int,
    step: int,
    key: str,
    size_bytes: int,
    superseded: int | None = None,
) -> bool:
    """Records a checkpoint, in place of the one after `superseded` steps; False if the order is no longer held."""
    rows = await attempt.rows(
        _CHECKPOINT,
        step=step,
        key=key,
        size_bytes=size_bytes,
        superseded=superseded,
        **held_columns({generation_id: fence}),
    )
    return bool(rows)


async def audit(attempt: Attempt, entries: Sequence[AuditEntry]) -> None:
    """Writes one row of the audit table for each verdict."""
    verdicts = [
        asdict(verdict) | {"generation_id": entry.id, "at": entry.at.isoformat(), "position": position}
        for entry in entries
        for position, verdict in enumerate(entry.verdicts)
    ]
    await attempt.connection.execute(_AUDIT, {"verdicts": json.dumps(verdicts)})


def _lease_status(held: Mapping[str, object], rows: Sequence) -> LeaseStatus:
    return LeaseStatus(
        lost=frozenset(held) - {row.id for row in rows},
        cancelled=frozenset(row.id for row in rows if row.cancel_requested),
    )
