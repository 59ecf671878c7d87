"""State of a clip between two denoising steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gamegen.controls import Control
from gamegen.engine.conditioning import Conditioning, idle_operations
from gamegen.engine.snapshot import PastChunk
from gamegen.engine.state import DenoisingState
from gamegen.generation.clip_checkpoint import ClipCheckpoint
from gamegen.generation.render_plan import RenderPlan
from gamegen.generation.spec import ClipSpec
from gamegen.models.motion_compensation import Compensated
from gamegen.models.view_memory import ViewMemory

WALKING = Control({"w"})
"""Control of every chunk for which none is given."""


@dataclass(eq=False, kw_only=True)
class Drawing:
    """A clip that a renderer has drawn a part of.

    `finished` are latents `(C, h, w)` float16, normalised, the first `num_before` of them from before the clip (the
    end of a source video); `chunk` is the one being denoised, None when all are finished. `controls` are those of the
    clip's chunks; the player walks forward in chunks beyond them. For models that follow the shown frames,
    `compensated` is what each finished chunk was generated from, `shown` the last frames, uint8 `(2, H, W, 3)`, and
    `memory` the views that are kept.
    """

    session_id: str
    spec: ClipSpec
    plan: RenderPlan
    finished: list[Tensor]
    num_before: int
    controls: Sequence[Control] = ()
    chunk: DenoisingState | None = field(default=None, repr=False)
    compensated: list[Compensated] = field(default_factory=list, repr=False)
    shown: Tensor | None = field(default=None, repr=False)
    memory: ViewMemory = field(default_factory=ViewMemory, repr=False)

    @property
    def num_steps(self) -> int:
        """Denoising steps of all chunks together."""
        return self.plan.num_steps

    @property
    def step(self) -> int:
        """Denoising steps that are done, of `num_steps`."""
        done = self.plan.steps_of(self._num_drawn)
        return done + self.chunk.steps_done if self.chunk else done

    @property
    def is_done(self) -> bool:
        """True once every chunk is finished."""
        return len(self.finished) - self.num_before == self.plan.num_chunks

    @property
    def latents(self) -> Tensor:
        """Finished latents `(M, C, h, w)` float16; the clip's are those from `num_before` on."""
        return torch.stack(self.finished) if self.finished else torch.empty(0, dtype=torch.float16)

    def checkpoint(self) -> bytes:
        """Bytes that `ClipRenderer.resume` needs besides the spec and its texts."""
        return ClipCheckpoint(
            content_hash=self.spec.content_hash,
            seed=self.spec.seed,
            num_before=self.num_before,
            step=self.step,
            steps_done=self.chunk.steps_done if self.chunk else 0,
            sampling=self.plan.sampling,
            latents=self.latents,
            x=self.chunk.x if self.chunk else torch.empty(0),
            compensated=self.compensated,
            shown=self.shown,
            memory=self.memory,
        ).to_bytes()

    def conditioning(self, index: int) -> Conditioning:
        """Conditioning of chunk `index` of `finished`, or of the one after them; given chunks have no control."""
        number = index - self.num_before
        if number < self.plan.num_given:
            return Conditioning(idle_operations())
        control = self.controls[number] if number < len(self.controls) else WALKING
        return Conditioning(control.operations())

    def past(self) -> list[PastChunk]:
        """Finished chunks with their conditioning, for an engine's history."""
        given: Sequence[Compensated | None] = self.compensated or [None] * len(self.finished)
        return [
            PastChunk(latent, self.conditioning(i), compensated)
            for i, (latent, compensated) in enumerate(zip(self.finished, given, strict=True))
        ]

    @property
    def _num_drawn(self) -> int:
        return len(self.finished) - self.num_before - self.plan.num_given
