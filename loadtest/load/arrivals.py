"""Arrival and leaving times of simulated players, by a seed."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Visit:
    """One player's stay, in seconds from the beginning of the run."""

    number: int
    arrives_s: float
    leaves_s: float


def schedule(
    sessions: int, arrivals_per_s: float, minutes: float, mean_stay_s: float, seed: int
) -> tuple[Visit, ...]:
    """Draws all stays of a run, in the order of arrival.

    Players arrive as a Poisson process until `sessions` play; each stays an exponential time of `mean_stay_s`, at most
    until the end, and when all places are taken the process goes on once one is free. A stay is counted from the
    arrival, however long the server lets the player wait, so the server does not change the crowd.
    """
    for name, value in (
        ("sessions", sessions),
        ("arrival rate", arrivals_per_s),
        ("minutes", minutes),
        ("mean stay", mean_stay_s),
    ):
        if value <= 0:
            raise ValueError(f"{name} = {value:g}: use a number above 0")
    chance = random.Random(seed)
    end_s = 60 * minutes
    leaving: list[float] = []
    visits: list[Visit] = []
    now_s = chance.expovariate(arrivals_per_s)
    while now_s < end_s:
        while leaving and leaving[0] <= now_s:
            heapq.heappop(leaving)
        if len(leaving) == sessions:
            now_s = heapq.heappop(leaving)
        else:
            leaves_s = min(end_s, now_s + chance.expovariate(1 / mean_stay_s))
            visits.append(Visit(len(visits), now_s, leaves_s))
            heapq.heappush(leaving, leaves_s)
        now_s += chance.expovariate(arrivals_per_s)
    return tuple(visits)


def full_at_s(visits: tuple[Visit, ...], sessions: int) -> float | None:
    """Seconds until `sessions` players are first there at once; None if they never are."""
    leaving: list[float] = []
    for visit in visits:
        while leaving and leaving[0] <= visit.arrives_s:
            heapq.heappop(leaving)
        heapq.heappush(leaving, visit.leaves_s)
        if len(leaving) == sessions:
            return visit.arrives_s
    return None
