"""Sampling config, importable without loading any network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Solver = Literal["euler", "heun", "consistency"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling of a chunk.

    `num_steps` denoising passes a chunk (`first_steps` for the first chunk of a world, which has no past),
    schedule `shift`, classifier-free `guidance_scale` (1 is off, one pass a step), and the solver: `euler` follows
    the flow, `heun` too, by the mean of the velocity before a step and after it, `consistency` jumps to x_0 and noises
    it again, which suits few steps of distilled models. The latent before a chunk is given at noise level
    `context_level`; temporal attention reads the past at `history_level`, which must be frequent in training, or worlds
    drift. The last latent of a recorded start is noised to `start_level` and denoised under the
    world's prompt, so that seeds begin differently; 0 leaves it as recorded. In worlds that recorded pictures complete,
    up to the share `keep` of a chunk is the frame before it, moved, in place of what is drawn and decoded. With
    `limits_change` no chunk changes more than footage does (`gamegen.models.change_limit`).
    """

    num_steps: int = 4
    first_steps: int = 12
    shift: float = 3.0
    guidance_scale: float = 1.0
    context_level: float = 0.1
    history_level: float = 0.6
    start_level: float = 0.1
    keep: float = 0.9
    limits_change: bool = False
    solver: Solver = "euler"

    def passes(self, steps_done: int, num_steps: int) -> int:
        """Passes of the model that the first `steps_done` of a chunk's `num_steps` solver steps take.

        A step of `heun` takes two, but for the last; with guidance all take twice as many.
        """
        velocities = steps_done
        if self.solver == "heun" and steps_done:
            velocities = 2 * steps_done - (steps_done == num_steps)
        return velocities if self.guidance_scale == 1 else 2 * velocities
