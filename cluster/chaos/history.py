"""History of one order, read from its events: its holders, its end, and the steps that were repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gamegen.service.orders.states import FINAL, LEASED, WAITING, State

_CLAIMED = (State.ENCODING, State.ASSIGNED)


class OrderEvent(NamedTuple):
    """Event of an order; `step` is that of progress or of a checkpoint."""

    kind: str
    state: State
    fence: int
    step: int | None = None

    @classmethod
    def of(cls, row: Any) -> OrderEvent:
        """Reads a row of the table `events`."""
        return cls(row.kind, State(row.state), row.fence, row.data.get("step"))


@dataclass
class History:
    """History of an order.

    `faults` are sentences about what must not be: two holders at a time, a word of somebody who is not the holder, an
    end that something follows. `ends` counts its final states, `repeated` has the steps that were drawn again for each
    time that a generator was lost, or gave the order back.
    """

    ends: list[State] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read(entries: Sequence[OrderEvent]) -> History:
    """Reads a history from all events of an order, the oldest first."""
    history = History()
    holder: int | None = None
    fence, reached, kept = 0, 0, 0
    for entry in entries:
        if history.ends:
            history.faults.append(f"{entry.kind} {entry.state} after its end")
        elif entry.kind == "state" and entry.state in _CLAIMED:
            if holder is not None or entry.fence <= fence:
                history.faults.append(f"claimed by {entry.fence} while {holder} had it")
            if entry.state is State.ASSIGNED and reached:
                history.repeated.append(reached - kept)
            holder = fence = entry.fence
            reached = 0
        elif entry.state in LEASED and entry.fence != holder:
            history.faults.append(f"{entry.kind} {entry.state} by {entry.fence} while {holder} had it")
        elif entry.kind == "state" and entry.state in WAITING | FINAL:
            # The first event is that it was accepted, by nobody.
            if entry.fence and entry.fence != holder:
                history.faults.append(f"{entry.state} by {entry.fence} while {holder} had it")
            holder = None
        if entry.step is not None:
            reached = max(reached, entry.step)
        if entry.kind == "checkpoint" and entry.step is not None:
            kept = max(kept, entry.step)
        if entry.kind == "state" and entry.state in FINAL:
            history.ends.append(entry.state)
    return history
