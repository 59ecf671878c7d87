"""Autoscaling policies of world and generator replicas.

Worlds are scaled to the sessions that play and wait, and up where chunks come late. Generators are scaled to the length
of the queue, and up where orders wait for long.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

MAX_UTILIZATION = 0.85
"""Share of its capacity up to which a replica is filled before another is started, which takes seconds."""
MAX_LATE_SHARE = 0.02
"""Share of late chunks above which a replica is added."""
ORDERS_PER_GENERATOR = 8
"""Number of orders that a generator draws together."""
MAX_WAIT_S = 60.0
"""Waiting time of an order above which a generator is added."""


def replicas_for(*, active: float, queued: float, late_share: float, current: int, carried: float) -> int:
    """Number of world replicas for `active` sessions that play and `queued` ones that wait.

    `carried` is the number of sessions that one replica draws in time: its slots, or fewer where that is known.
    """
    # A lone slot a replica cannot be filled in part.
    usable = max(1.0, MAX_UTILIZATION * carried)
    needed = max(1, math.ceil((active + queued) / usable))
    return max(needed, current + 1) if late_share > MAX_LATE_SHARE and active > current else needed


def world_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Serve's autoscaling policy for world replicas, which report `active`, `queued`, `late` and `carried` each.

    Returns the number of replicas, and no state.
    """
    reported = context.aggregated_metrics or {}
    if not reported.get("active"):
        # No replica has reported yet.
        return context.target_num_replicas, {}
    active, carried = _values(reported, "active"), _values(reported, "carried")
    num_replicas = replicas_for(
        active=sum(active),
        # Every replica reports the same queue.
        queued=max(_values(reported, "queued"), default=0.0),
        late_share=max(_values(reported, "late"), default=0.0),
        current=context.current_num_replicas,
        carried=sum(carried) / max(1, len(carried)),
    )
    return num_replicas, {}


def _values(reported: dict[str, dict[Any, float]], name: str) -> Collection[float]:
    return reported.get(name, {}).values()


def generators_for(*, waiting: float, held: float, oldest_s: float, current: int) -> int:
    """Number of generator replicas for `waiting` orders, the oldest since `oldest_s`, and `held` ones in work."""
    needed = math.ceil((waiting + held) / ORDERS_PER_GENERATOR)
    return max(needed, current + 1) if oldest_s > MAX_WAIT_S else needed


def clip_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Serve's autoscaling policy for generator replicas, which report `waiting`, `oldest_s` and `held` each."""
    reported = context.aggregated_metrics or {}
    if not reported.get("held"):
        # No replica has reported yet.
        return context.target_num_replicas, {}
    num_replicas = generators_for(
        # Every replica reports the same queue.
        waiting=max(_values(reported, "waiting"), default=0.0),
        held=sum(_values(reported, "held")),
        oldest_s=max(_values(reported, "oldest_s"), default=0.0),
        current=context.current_num_replicas,
    )
    return num_replicas, {}
