"""How many replicas there should be: of worlds enough places for those who play and wait, and more where chunks come
late; of generators as many as the queue fills, and more where orders wait for long."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

FULLEST = 0.85
"""The share of its places up to which a replica is filled before another is started: one takes seconds to start."""
MOST_LATE = 0.02
"""The share of chunks that may come late before a replica is added."""
BATCH = 8
"""Orders that a generator draws together."""
LONG_WAIT_S = 60.0
"""When an order has waited for so long another generator is started."""


def replicas_for(active: float, queued: float, late_share: float, current: int, carried: float) -> int:
    """World replicas wanted for so many sessions that play, and that wait for a place.

    `carried` is how many sessions one replica draws in time: its slots, or fewer where that is known.
    """
    # A lone slot a replica cannot be filled in part.
    fullest = max(1.0, FULLEST * carried)
    needed = max(1, math.ceil((active + queued) / fullest))
    return max(needed, current + 1) if late_share > MOST_LATE and active > current else needed


def world_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Serve's autoscaling policy for world replicas, which report `active`, `queued`, `late` and `carried` each.

    Returns the replicas wanted, and nothing to remember.
    """
    reported = context.aggregated_metrics or {}
    if not reported.get("active"):
        # Nobody has reported yet.
        return context.target_num_replicas, {}
    active, carried = _values(reported, "active"), _values(reported, "carried")
    # Each replica tells of the same queue.
    queued = max(_values(reported, "queued"), default=0.0)
    late = max(_values(reported, "late"), default=0.0)
    mean_carried = sum(carried) / max(1, len(carried))
    return replicas_for(sum(active), queued, late, context.current_num_replicas, mean_carried), {}


def _values(reported: dict[str, dict[Any, float]], name: str) -> Collection[float]:
    return reported.get(name, {}).values()


def generators_for(waiting: float, held: float, oldest_s: float, current: int) -> int:
    """Generator replicas wanted while so many orders wait, the oldest for `oldest_s`, and so many are worked on."""
    needed = math.ceil((waiting + held) / BATCH)
    return max(needed, current + 1) if oldest_s > LONG_WAIT_S else needed


def clip_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Serve's autoscaling policy for generator replicas, which report `waiting`, `oldest_s` and `held` each."""
    reported = context.aggregated_metrics or {}
    if not reported.get("held"):
        # Nobody has reported yet.
        return context.target_num_replicas, {}
    # Each replica tells of the same queue.
    waiting, oldest_s = (max(_values(reported, name), default=0.0) for name in ("waiting", "oldest_s"))
    return generators_for(waiting, sum(_values(reported, "held")), oldest_s, context.current_num_replicas), {}
