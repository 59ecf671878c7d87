"""Sampling config, importable without loading any network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling of a chunk.

    `num_steps` denoising passes a chunk (`first_steps` for the first chunk of a world, which has no past),
    schedule `shift`, classifier-free `guidance_scale` (1 is off, one pass a step), and the solver: `euler` follows
    the flow, `consistency` jumps to x_0 and noises it again, which suits few steps. The latent before a chunk is
    given at noise level `context_level`; temporal attention reads the past at `history_level`, which must be frequent
    in training, or worlds drift. The last latent of a recorded start is noised to `start_level` and denoised under the
    world's prompt, so that seeds begin differently; 0 leaves it as recorded. In worlds that recorded pictures complete,
    up to the share `keep` of a chunk is the frame before it, moved, in place of what is drawn and decoded.
    """

    num_steps: int = 4
    first_steps: int = 12
    shift: float = 3.0
    guidance_scale: float = 1.0
    context_level: float = 0.1
    history_level: float = 0.6
    start_level: float = 0.1
    keep: float = 0.9
    solver: Literal["euler", "consistency"] = "euler"
