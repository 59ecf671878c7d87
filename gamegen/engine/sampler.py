"""Sampling of latents: classifier-free guidance and one step of a solver. Knows no sessions, slots or threads.

Shape suffixes as in `gamegen.flow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gamegen.flow import add_noise, expand_levels, predict_x0, schedule

VelocityFn = Callable[[Tensor, Tensor], Tensor]
"""Velocity `(B, T, C, H, W)` of noisy latents of that shape at noise levels `(B, T)`."""


@dataclass(frozen=True, kw_only=True)
class SolverStep:
    """One step of a solver: from the noise levels `level_BT` to `next_level_BT`, each row at its own.

    `change_BT` is their difference, rounded to float32 once.
    """

    level_BT: Tensor
    next_level_BT: Tensor
    change_BT: Tensor
    guidance_scale: float
    solver: Literal["euler", "consistency"]

    @property
    def needs_noise(self) -> bool:
        """True if the solver adds fresh noise."""
        return self.solver != "euler"

    @classmethod
    def of(
        cls,
        progress: Sequence[tuple[int, int]],
        shift: float,
        guidance_scale: float,
        solver: Literal["euler", "consistency"],
        device: torch.device,
    ) -> SolverStep:
        """The next step of rows of one latent frame each, given their (steps done, number of steps)."""
        levels = [schedule(num_steps, shift)[done : done + 2] for done, num_steps in progress]
        return cls(
            level_BT=torch.tensor([[level] for level, _ in levels], device=device),
            next_level_BT=torch.tensor([[following] for _, following in levels], device=device),
            change_BT=torch.tensor([[following - level] for level, following in levels], device=device),
            guidance_scale=guidance_scale,
            solver=solver,
        )


def denoise_step(
    cond: VelocityFn,
    uncond: VelocityFn | None,
    x_BTCHW: Tensor,
    step: SolverStep,
    noise: Tensor | None = None,
) -> Tensor:
    """Latents one solver step less noisy, in the shape of `x_BTCHW`.

    `euler` follows the velocity. `consistency` jumps to the x_0 it points to and adds `noise` at the next level (Song
    et al. 2023, "Consistency Models", algorithm 1). `uncond` None turns guidance off.
    """
    velocity = guided_velocity(cond, uncond, x_BTCHW, step)
    if not step.needs_noise:
        return x_BTCHW + expand_levels(step.change_BT) * velocity
    assert noise is not None
    return add_noise(predict_x0(x_BTCHW, velocity, step.level_BT), noise, step.next_level_BT)


def guided_velocity(cond: VelocityFn, uncond: VelocityFn | None, x_BTCHW: Tensor, step: SolverStep) -> Tensor:
    """Velocity under classifier-free guidance (Ho and Salimans 2022): `uncond + scale * (cond - uncond)`."""
    velocity = cond(x_BTCHW, step.level_BT)
    if uncond is None:
        return velocity
    without = uncond(x_BTCHW, step.level_BT)
    return without + step.guidance_scale * (velocity - without)
