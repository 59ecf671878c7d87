"""What draws orders, as those who have them drawn see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from gamegen.clips.drawing import Drawing
from gamegen.models.text import TextStates
from gamegen.videos.order import Order


class Renders(Protocol):
    """A `ClipRenderer`, or what stands in its place; for one thread at a time."""

    def first_latents(self, order: Order, data: bytes) -> Tensor | None:
        """What an order goes on from; raises ValueError."""

    def begin(
        self, order: Order, prompt: TextStates, negative: TextStates | None, first: Tensor | None
    ) -> Drawing:
        """A clip before its first step; raises ValueError."""

    def resume(
        self, order: Order, prompt: TextStates, negative: TextStates | None, checkpoint: bytes
    ) -> Drawing:
        """A clip as its checkpoint says; raises ValueError."""

    def step(self, drawings: Sequence[Drawing]) -> float:
        """Takes each one step further; returns how many seconds that took."""

    def close(self, drawing: Drawing) -> None:
        """Frees what a clip takes."""
