"""Retention periods, and the counts of a run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class RetentionSettings:
    """Retention periods: `content_days` for finished clips that are not exempt, `metadata_days` for orders.

    The files of an expired clip are removed `grace_minutes` later, after downloads in progress. Objects that no row
    refers to are removed when they are `unnamed_hours` old: a younger one's row may not be written yet. `batch` rows or
    objects are removed at a time.
    """

    content_days: float = 30
    metadata_days: float = 90
    grace_minutes: float = 60
    unnamed_hours: float = 24
    batch: int = 500

    def __post_init__(self) -> None:
        for name in ("content_days", "grace_minutes", "unnamed_hours"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be 0 or more")
        if self.metadata_days < self.content_days:
            raise ValueError(
                f"metadata_days = {self.metadata_days:g} must be at least content_days = "
                f"{self.content_days:g}: a clip is served with its order"
            )
        if not 1 <= self.batch <= 1000:
            raise ValueError(f"batch = {self.batch}: must be 1 to 1000")

    @property
    def content(self) -> timedelta:
        return timedelta(days=self.content_days)

    @property
    def metadata(self) -> timedelta:
        return timedelta(days=self.metadata_days)

    @property
    def grace(self) -> timedelta:
        return timedelta(minutes=self.grace_minutes)

    @property
    def unnamed_s(self) -> float:
        return self.unnamed_hours * 3600


@dataclass(frozen=True)
class RemovedCounts:
    """Counts of a run: clips that `expired`, `clips` whose files were removed, and `orders` that were deleted.

    Also checkpoints, inputs, `orphans` (files that no row refers to) and unfinished uploads. `not_removed` objects stay
    because the store refuses to remove them, the first of them for `reason`; the next run tries again.
    """

    expired: int = 0
    clips: int = 0
    checkpoints: int = 0
    orders: int = 0
    inputs: int = 0
    orphans: int = 0
    unfinished_uploads: int = 0
    not_removed: int = 0
    reason: str = ""
