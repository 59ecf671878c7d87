"""Sampling of latents: classifier-free guidance and one step of a solver. Knows no sessions, slots or threads.

Shape suffixes as in `gamegen.flow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gamegen.flow import add_noise, expand_levels, predict_x0, schedule
from gamegen.models.sampling import Solver

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
    solver: Solver

    @property
    def needs_noise(self) -> bool:
        """True if the solver adds fresh noise."""
        return self.solver == "consistency"

    @classmethod
    def of(
        cls,
        progress: Sequence[tuple[int, int]],
        shift: float,
        guidance_scale: float,
        solver: Solver,
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

    `euler` follows the velocity. `heun` follows the mean of it and of the velocity where it leads to, except to level
    0, where there is no noise left to tell a velocity by (Karras et al. 2022, algorithm 1). `consistency` jumps to the
    x_0 it points to and adds `noise` at the next level (Song et al. 2023, "Consistency Models", algorithm 1). `uncond`
    None turns guidance off.
    """
    velocity = guided_velocity(cond, uncond, x_BTCHW, step.level_BT, step.guidance_scale)
    if step.needs_noise:
        assert noise is not None
        return add_noise(predict_x0(x_BTCHW, velocity, step.level_BT), noise, step.next_level_BT)
    change = expand_levels(step.change_BT)
    if step.solver == "heun" and bool(step.next_level_BT.any()):
        there = guided_velocity(
            cond, uncond, x_BTCHW + change * velocity, step.next_level_BT, step.guidance_scale
        )
        is_last = expand_levels(step.next_level_BT) == 0
        velocity = torch.where(is_last, velocity, (velocity + there) / 2)
    return x_BTCHW + change * velocity


def guided_velocity(
    cond: VelocityFn, uncond: VelocityFn | None, x_BTCHW: Tensor, level_BT: Tensor, guidance_scale: float
) -> Tensor:
    """Velocity under classifier-free guidance (Ho and Salimans 2022): `uncond + scale * (cond - uncond)`."""
    velocity = cond(x_BTCHW, level_BT)
    if uncond is None:
        return velocity
    without = uncond(x_BTCHW, level_BT)
    return without + guidance_scale * (velocity - without)
