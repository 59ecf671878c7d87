"""How long what is kept, and what a run has removed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class RetentionSettings:
    """Clips are kept for `content_days` after they are finished, unless someone keeps them; their orders for
    `metadata_days`.

    The files of an expired clip go `grace_minutes` later, for those who are reading them. Objects that no row names go
    once they are `unnamed_hours` old: before that their row may be on its way. `batch` rows or objects are removed at a
    time.
    """

    content_days: float = 30
    metadata_days: float = 90
    grace_minutes: float = 60
    unnamed_hours: float = 24
    batch: int = 500

    def __post_init__(self) -> None:
        for name in ("content_days", "grace_minutes", "unnamed_hours"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: nothing can be kept for less than no time")
        if self.metadata_days < self.content_days:
            raise ValueError(
                f"metadata_days = {self.metadata_days:g} is less than content_days = {self.content_days:g}: "
                "a clip cannot be given out without its order"
            )
        if not 1 <= self.batch <= 1000:
            raise ValueError(f"batch = {self.batch}: choose 1 to 1000")

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
class Removed:
    """What a run did: `expired` clips are given out no longer, the files of `clips` are gone, `orders` are forgotten.

    Beside them checkpoints, inputs and objects that no row names (`unnamed`), and uploads that were begun and left.
    """

    expired: int = 0
    clips: int = 0
    checkpoints: int = 0
    orders: int = 0
    inputs: int = 0
    unnamed: int = 0
    unfinished_uploads: int = 0
