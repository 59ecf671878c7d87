"""Chunks of a clip, the passes of the model that they take, and the sampling that they are drawn with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.generation.spec import ClipSpec, ClipStart
from gamegen.models.sampling import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class RenderPlan:
    """The work that a clip is for one model.

    The clip has `num_chunks` chunks, the first `num_given` of which are given (an image). `has_past` is true where
    frames come before the first chunk that is drawn, so that no chunk takes the longer sampling of a first one.
    """

    sampling: SamplingConfig
    num_chunks: int
    num_given: int
    has_past: bool

    @classmethod
    def of(cls, spec: ClipSpec, sampling: SamplingConfig) -> RenderPlan:
        """The plan of a clip for a model whose own sampling is `sampling`.

        A clip with another number of steps takes at least that many for a first chunk.
        """
        first_steps = sampling.first_steps
        if spec.num_steps != sampling.num_steps:
            first_steps = max(first_steps, spec.num_steps)
        return cls(
            sampling=replace(
                sampling,
                num_steps=spec.num_steps,
                first_steps=first_steps,
                guidance_scale=spec.guidance_scale,
                solver=spec.solver or sampling.solver,
            ),
            num_chunks=-(-spec.num_frames // FRAMES_PER_CHUNK),
            num_given=1 if spec.start is ClipStart.IMAGE else 0,
            has_past=spec.start is not ClipStart.NOTHING,
        )

    @property
    def num_steps(self) -> int:
        """Passes of the model for all chunks together; 0 if all of the clip is given.

        A denoising step is one, with guidance two; of Heun's solver it is twice as many, but for a chunk's last.
        """
        return self.steps_of(self.num_chunks - self.num_given)

    def steps_of(self, num_drawn: int) -> int:
        """Passes of the model for the first `num_drawn` chunks that are drawn."""
        if num_drawn == 0:
            return 0
        sampling = self.sampling
        first, later = (
            sampling.passes(steps, steps)
            for steps in (sampling.num_steps if self.has_past else sampling.first_steps, sampling.num_steps)
        )
        return first + (num_drawn - 1) * later
