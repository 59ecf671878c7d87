"""Specification of a clip: all that a renderer has to know of it besides its texts and its first frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from gamegen.media.size import Size, check_frames, check_size
from gamegen.models.sampling import SOLVERS, SamplingConfig, Solver

DEFAULT_FRAMES = 102
"""Frames of a clip whose length nobody names: four and a quarter seconds."""
MAX_STEPS = 100
"""Denoising steps of one chunk."""
MAX_GUIDANCE_SCALE = 20.0
NEGATIVE_GUIDANCE = 3.0
"""Least guidance scale, where none is asked, of clips with a negative prompt."""


class ClipStart(StrEnum):
    """Frames that a clip begins with."""

    NOTHING = "nothing"
    IMAGE = "image"
    """An image, which is the clip's first chunk."""
    VIDEO = "video"
    """A source video, after whose end the clip begins."""


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """Size, length and sampling of a clip.

    `width` and `height` are in pixels, multiples of 16; `num_frames` are drawn at 24 a second; every chunk takes
    `num_steps` denoising steps of the `solver`, the model's own if None. `content_hash` names everything that the clip
    depends on, its texts, files and model included: a checkpoint is resumed only for the hash that it was written for.
    Raises ValueError for a clip beyond the limits.
    """

    width: int
    height: int
    num_frames: int
    num_steps: int
    guidance_scale: float
    seed: int
    start: ClipStart = ClipStart.NOTHING
    content_hash: str = ""
    solver: Solver | None = None

    def __post_init__(self) -> None:
        check_frames(self.num_frames)
        check_size(self.width, self.height)
        if not 1 <= self.num_steps <= MAX_STEPS:
            raise ValueError(f"num_steps = {self.num_steps}: a chunk takes 1 to {MAX_STEPS}")
        check_solver(self.solver)
        if not (math.isfinite(self.guidance_scale) and 0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE):
            raise ValueError(
                f"guidance_scale = {self.guidance_scale:g}: must be 0 to {MAX_GUIDANCE_SCALE:g}; 1 is no guidance"
            )

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return Size(self.width, self.height)

    @property
    def passes_of_a_chunk(self) -> int:
        """Passes of the model that a chunk takes; see `SamplingConfig.passes`."""
        sampling = SamplingConfig(guidance_scale=self.guidance_scale, solver=self.solver or "euler")
        return sampling.passes(self.num_steps, self.num_steps)

    @property
    def batch_key(self) -> str:
        """Clips of one model with equal keys can take their denoising steps in one batch."""
        return f"{self.width}x{self.height}|{self.num_steps}|{self.guidance_scale:g}|{self.solver}"


def check_solver(name: str | None) -> Solver | None:
    """The solver of this name, None for None; raises ValueError for an unknown one."""
    if name is None or name in SOLVERS:
        return cast(Solver | None, name)
    raise ValueError(f"solver = {name!r}: use one of {', '.join(SOLVERS)}")


def guidance_of(asked: float | None, sampling: SamplingConfig, has_negative: bool) -> float:
    """The guidance scale of a clip: as asked, else the model's own, with a negative prompt enough for an effect.

    Raises ValueError for a scale of at most 1 with a negative prompt: guidance leads away from that by what is above 1.
    """
    if not has_negative:
        return sampling.guidance_scale if asked is None else asked
    if asked is None:
        return max(NEGATIVE_GUIDANCE, sampling.guidance_scale)
    if asked <= 1:
        raise ValueError(
            f"guidance_scale = {asked:g} leaves the negative prompt without effect: give more than 1, or leave it out"
        )
    return asked
