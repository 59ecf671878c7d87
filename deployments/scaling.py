"""How many world replicas there should be: enough places for those who play and wait, more where chunks come late."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

FULLEST = 0.85
"""The share of its places up to which a replica is filled before another is started: one takes seconds to start."""
MOST_LATE = 0.02
"""The share of chunks that may come late before a replica is added."""


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
