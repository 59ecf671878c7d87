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
from gamegen.generation.finished_chunks import FinishedChunks
from gamegen.generation.render_plan import RenderPlan
from gamegen.generation.spec import ClipSpec
from gamegen.models.motion_compensation import Compensated
from gamegen.models.view_memory import ViewMemory

WALKING = Control({"w"})
"""Control of every chunk for which none is given."""
CHUNKS_OF_A_PART = 16
"""Finished chunks that a stored checkpoint must add for later ones to go on from it, instead of taking its place."""


@dataclass(frozen=True)
class DrawnCheckpoint:
    """Bytes of a checkpoint after `step` passes and `num_finished` chunks."""

    data: bytes
    step: int
    num_finished: int


@dataclass(eq=False, kw_only=True)
class Drawing:
    """A clip that a renderer has drawn a part of.

    `finished` holds the finished latents, the first `num_before` of them from before the clip (the end of a source
    video); `chunk` is the one being denoised, None when all are finished. `controls` are those of the clip's chunks;
    the player walks forward in chunks beyond them. For models that follow the shown frames, `shown` are the last
    frames, uint8 `(2, H, W, 3)`, and `memory` the views that are kept. The first `num_stored` chunks are in the stored
    checkpoint `stored` and those before it.
    """

    session_id: str
    spec: ClipSpec
    plan: RenderPlan
    num_before: int
    finished: FinishedChunks = field(default_factory=FinishedChunks, repr=False)
    controls: Sequence[Control] = ()
    chunk: DenoisingState | None = field(default=None, repr=False)
    shown: Tensor | None = field(default=None, repr=False)
    memory: ViewMemory = field(default_factory=ViewMemory, repr=False)
    num_stored: int = 0
    stored: str = ""

    @property
    def num_steps(self) -> int:
        """Passes of the model for all chunks together, see `RenderPlan.num_steps`."""
        return self.plan.num_steps

    @property
    def step(self) -> int:
        """Passes of the model that are done, of `num_steps`."""
        done = self.plan.steps_of(self._num_drawn)
        if self.chunk is None:
            return done
        return done + self.plan.sampling.passes(self.chunk.steps_done, self.chunk.num_steps)

    @property
    def is_done(self) -> bool:
        """True once every chunk is finished."""
        return len(self.finished) - self.num_before == self.plan.num_chunks

    @property
    def latents(self) -> Tensor:
        """All finished latents `(M, C, h, w)` float16; the clip's are those from `num_before` on."""
        return self.finished.latents(0, len(self.finished))

    def checkpoint(self) -> DrawnCheckpoint:
        """A checkpoint, from which `ClipRenderer.resume` goes on.

        It also needs the spec, its texts, and the checkpoint `stored`, whose chunks are not in this one.
        """
        start, stop = self.num_stored, len(self.finished)
        kept = ClipCheckpoint(
            content_hash=self.spec.content_hash,
            seed=self.spec.seed,
            num_before=self.num_before,
            num_earlier=start,
            earlier=self.stored,
            step=self.step,
            steps_done=self.chunk.steps_done if self.chunk else 0,
            sampling=self.plan.sampling,
            latents=self.finished.latents(start, stop),
            x=self.chunk.x if self.chunk else torch.empty(0),
            compensated=self.finished.compensated(start, stop),
            shown=self.shown,
            memory=self.memory,
        )
        return DrawnCheckpoint(kept.to_bytes(), kept.step, stop)

    def note_stored(self, name: str, num_finished: int) -> bool:
        """Notes that the last checkpoint is stored under `name`; True if later ones go on from it.

        Otherwise it holds too little: the next one has its chunks as well, and it may then be removed.
        """
        if num_finished - self.num_stored < CHUNKS_OF_A_PART:
            return False
        self.stored, self.num_stored = name, num_finished
        return True

    def conditioning(self, index: int) -> Conditioning:
        """Conditioning of chunk `index` of `finished`, or of the one after them; given chunks have no control."""
        number = index - self.num_before
        if number < self.plan.num_given:
            return Conditioning(idle_operations())
        control = self.controls[number] if number < len(self.controls) else WALKING
        return Conditioning(control.operations())

    def past(self, start: int, stop: int) -> list[PastChunk]:
        """Finished chunks from `start` to before `stop` with their conditioning, for an engine's history."""
        latents = self.finished.latents(start, stop)
        given: Sequence[Compensated | None] = self.finished.compensated(start, stop) or [None] * len(latents)
        return [
            PastChunk(latent, self.conditioning(start + i), compensated)
            for i, (latent, compensated) in enumerate(zip(latents, given, strict=True))
        ]

    @property
    def _num_drawn(self) -> int:
        return len(self.finished) - self.num_before - self.plan.num_given
