"""A clip on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gamegen.clips.checkpoint import ClipCheckpoint
from gamegen.clips.plan import ClipPlan
from gamegen.controls import Control
from gamegen.engine import idle_operations
from gamegen.session import Underway
from gamegen.snapshot import PastChunk, Steering
from gamegen.videos.order import Order

WALKING = Control({"w"})
"""What a clip shows where nobody says anything else."""


@dataclass(eq=False)
class Drawing:
    """What a renderer has drawn of an order so far.

    `finished` are latents `(C, h, w)` float16, normalised, the first `num_before` of them from before the clip (the
    end of a source video); `chunk` is the one on its way, None when all are finished. `controls` are those of the
    clip's chunks; walking forward follows them.
    """

    session_id: str
    order: Order
    plan: ClipPlan
    finished: list[Tensor]
    num_before: int
    controls: Sequence[Control] = ()
    chunk: Underway | None = field(default=None, repr=False)

    @property
    def num_steps(self) -> int:
        """Denoising steps of all chunks together."""
        return self.plan.num_steps

    @property
    def step(self) -> int:
        """How many of them are done."""
        done = self.plan.steps_of(self._num_drawn)
        return done + self.chunk.steps_done if self.chunk else done

    @property
    def is_done(self) -> bool:
        """Whether every chunk is finished."""
        return len(self.finished) - self.num_before == self.plan.num_chunks

    @property
    def latents(self) -> Tensor:
        """Finished latents `(M, C, h, w)` float16; the clip's are those from `num_before` on."""
        return torch.stack(self.finished) if self.finished else torch.empty(0, dtype=torch.float16)

    def checkpoint(self) -> bytes:
        """All that `ClipRenderer.resume` needs besides the order and its texts."""
        return ClipCheckpoint(
            self.order.content_hash,
            self.order.seed,
            self.num_before,
            self.step,
            self.chunk.steps_done if self.chunk else 0,
            self.plan.sampling,
            self.latents,
            self.chunk.x if self.chunk else torch.empty(0),
        ).to_bytes()

    def steering(self, index: int) -> Steering:
        """What a chunk of `finished`, or the one after them, is drawn under; nobody played those that are given."""
        number = index - self.num_before
        if number < self.plan.num_given:
            return Steering(idle_operations())
        control = self.controls[number] if number < len(self.controls) else WALKING
        return Steering(control.operations())

    def past(self) -> list[PastChunk]:
        """Finished chunks as an engine remembers them."""
        return [PastChunk(latent, self.steering(i)) for i, latent in enumerate(self.finished)]

    @property
    def _num_drawn(self) -> int:
        return len(self.finished) - self.num_before - self.plan.num_given
