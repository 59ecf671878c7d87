"""What becomes of an order, and which state may follow which."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """An accepted order ends as COMPLETED, FAILED, CANCELLED or BLOCKED, whatever dies on the way."""

    PENDING = "PENDING"
    """Accepted and written down; nobody has looked at it."""
    ENCODING = "ENCODING"
    """Its words are judged and encoded."""
    QUEUED = "QUEUED"
    """Ready for a generator."""
    ASSIGNED = "ASSIGNED"
    """A generator has it."""
    GENERATING = "GENERATING"
    VAE_DECODING = "VAE_DECODING"
    SAFETY_CHECKING = "SAFETY_CHECKING"
    TRANSCODING = "TRANSCODING"
    UPLOADING = "UPLOADING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    BLOCKED = "BLOCKED"
    """Its prompt or its frames may not be shown."""


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.BLOCKED})
"""Nothing follows these."""
WAITING = frozenset({State.PENDING, State.QUEUED})
"""Nobody works on it: it can be claimed."""
LEASED = frozenset(State) - FINAL - WAITING
"""A worker has it, for as long as its lease lasts."""

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
    # A result that is there already is given at once; what may not be asked for is blocked at once.
    State.PENDING: frozenset({State.ENCODING, State.COMPLETED, State.BLOCKED}) | _ENDS_ANYWHERE,
    # Back to PENDING when its worker is lost.
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
    """A state that may not follow another."""


def check_transition(before: State, after: State) -> None:
    """Raises TransitionError unless `after` may follow `before`."""
    if after not in TRANSITIONS[before]:
        allowed = ", ".join(sorted(TRANSITIONS[before])) or "nothing"
        raise TransitionError(f"{before} cannot become {after}: what may follow is {allowed}")
