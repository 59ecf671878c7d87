"""States of an order, and the transitions between them."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """State of an order; every accepted order ends as COMPLETED, FAILED, CANCELLED or BLOCKED."""

    PENDING = "PENDING"
    """Accepted and stored; not claimed yet."""
    ENCODING = "ENCODING"
    """Its texts and its image or source video pass the safety checks; the name is that of the public API."""
    QUEUED = "QUEUED"
    """Ready for a generator."""
    ASSIGNED = "ASSIGNED"
    """A generator has claimed it."""
    GENERATING = "GENERATING"
    VAE_DECODING = "VAE_DECODING"
    SAFETY_CHECKING = "SAFETY_CHECKING"
    TRANSCODING = "TRANSCODING"
    UPLOADING = "UPLOADING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    BLOCKED = "BLOCKED"
    """Refused by the safety checks, for its prompt or its frames."""


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.BLOCKED})
"""States that no other state follows."""
WAITING = frozenset({State.PENDING, State.QUEUED})
"""States in which an order can be claimed."""
LEASED = frozenset(State) - FINAL - WAITING
"""States in which a worker holds the order until its lease expires."""

_WORK = (
    State.ASSIGNED,
    State.GENERATING,
    State.VAE_DECODING,
    State.SAFETY_CHECKING,
    State.TRANSCODING,
    State.UPLOADING,
)
_ENDS_ANYWHERE = frozenset({State.FAILED, State.CANCELLED})

TRANSITIONS: dict[State, frozenset[State]] = {
    # Completed at once if the clip exists already, blocked at once by a refused prompt.
    State.PENDING: frozenset({State.ENCODING, State.COMPLETED, State.BLOCKED}) | _ENDS_ANYWHERE,
    # Back to PENDING when the worker is lost.
    State.ENCODING: frozenset({State.QUEUED, State.PENDING, State.COMPLETED, State.BLOCKED}) | _ENDS_ANYWHERE,
    State.QUEUED: frozenset({State.ASSIGNED, State.COMPLETED}) | _ENDS_ANYWHERE,
    # Each stage of the work leads to the next, or back to the queue.
    **{
        state: frozenset({following, State.QUEUED}) | _ENDS_ANYWHERE
        for state, following in zip(_WORK, (*_WORK[1:], State.COMPLETED), strict=True)
    },
    **dict.fromkeys(FINAL, frozenset()),
}
TRANSITIONS[State.SAFETY_CHECKING] |= {State.BLOCKED}


class TransitionError(ValueError):
    """A transition between states that is not allowed."""


def check_transition(before: State, after: State) -> None:
    """Raises TransitionError unless `after` may follow `before`."""
    if after not in TRANSITIONS[before]:
        allowed = ", ".join(sorted(TRANSITIONS[before])) or "no state"
        raise TransitionError(f"{before} cannot become {after}: it can become {allowed}")


def states_before(after: State) -> list[str]:
    """Values of the states that `after` may follow."""
    return [state.value for state in State if after in TRANSITIONS[state]]
