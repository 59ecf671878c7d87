"""Settings of clip workers."""

from __future__ import annotations

from dataclasses import dataclass

MAX_ORDERS = 8
"""Largest number of orders that are drawn together."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Batch size, lease, and intervals of checkpoints and progress of a clip worker.

    Up to `max_batch` orders are drawn together. An order whose worker has not renewed its lease for `lease_s` goes to
    another, which repeats at most `checkpoint_every_steps`. Progress is written every `progress_every_s`.
    """

    max_batch: int = MAX_ORDERS
    lease_s: float = 15.0
    checkpoint_every_steps: int = 10
    progress_every_s: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch <= MAX_ORDERS:
            raise ValueError(f"max_batch = {self.max_batch}: must be 1 to {MAX_ORDERS}")
        if self.checkpoint_every_steps < 1:
            raise ValueError(f"checkpoint_every_steps = {self.checkpoint_every_steps}: must be 1 or more")
        if self.lease_s < 1 or self.progress_every_s < 0:
            raise ValueError(
                f"lease_s = {self.lease_s:g} and progress_every_s = {self.progress_every_s:g}: "
                "must be at least 1 s and at least 0 s"
            )
