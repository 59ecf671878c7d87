"""How a generator works on orders."""

from __future__ import annotations

from dataclasses import dataclass

MAX_ORDERS = 8
"""Those that are drawn together."""


@dataclass(frozen=True)
class WorkerSettings:
    """How orders are worked on.

    Up to `max_batch` are drawn together. An order whose worker has not been heard of for `lease_s` goes to another,
    which repeats at most `checkpoint_every_steps`. The database hears of steps every `progress_every_s`.
    """

    max_batch: int = MAX_ORDERS
    lease_s: float = 15.0
    checkpoint_every_steps: int = 10
    progress_every_s: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch <= MAX_ORDERS:
            raise ValueError(f"max_batch = {self.max_batch}: use 1 to {MAX_ORDERS}")
        if self.checkpoint_every_steps < 1:
            raise ValueError(f"checkpoint_every_steps = {self.checkpoint_every_steps}: use 1 or more")
        if self.lease_s < 1 or self.progress_every_s < 0:
            raise ValueError(
                f"lease_s = {self.lease_s:g} and progress_every_s = {self.progress_every_s:g}: "
                "use at least 1 and at least 0 seconds"
            )
