"""Solver steps and guidance on flows whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gamegen.engine.sampler import SolverStep, denoise_step
from gamegen.flow import add_noise

SHAPE = (2, 1, 4, 3, 3)


def step(done: list[int], solver: str, guidance_scale: float = 1.0, num_steps: int = 3) -> SolverStep:
    return SolverStep.of(
        [(steps, num_steps) for steps in done],
        shift=3.0,
        guidance_scale=guidance_scale,
        solver=solver,  # type: ignore[arg-type]
        device=torch.device("cpu"),
    )


def straight(x0: Tensor, noise: Tensor):
    """The velocity of a straight flow, the same at every level."""
    return lambda x, level_BT: noise - x0


def test_euler_follows_a_straight_flow_to_the_data_whatever_steps_each_row_has_had():
    x0, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    first = step([0, 1], "euler")
    x = add_noise(x0, noise, first.level_BT)
    for taken in range(3):
        rows = torch.tensor([True, taken < 2])
        x[rows] = denoise_step(
            straight(x0[rows], noise[rows]), None, x[rows], step([taken, taken + 1][: rows.sum()], "euler")
        )
    torch.testing.assert_close(x, x0, atol=1e-5, rtol=1e-5)


def test_a_consistency_step_noises_the_data_it_jumps_to():
    x0, noise, fresh = (torch.randn(SHAPE) for _ in range(3))
    now = step([0, 1], "consistency")
    assert now.needs_noise and not step([0], "euler").needs_noise
    found = denoise_step(straight(x0, noise), None, add_noise(x0, noise, now.level_BT), now, fresh)
    torch.testing.assert_close(found, add_noise(x0, fresh, now.next_level_BT), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_leads_away_from_the_unconditional_velocity(scale):
    x, cond, uncond = (torch.randn(SHAPE) for _ in range(3))
    now = step([1, 1], "euler", guidance_scale=scale)
    found = denoise_step(lambda *_: cond, lambda *_: uncond, x, now)
    velocity = (1 - scale) * uncond + scale * cond
    expected = denoise_step(lambda *_: velocity, None, x, now)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def bent(x: Tensor, level_BT: Tensor) -> Tensor:
    """A flow whose velocity changes with the level and the place: x = exp(sin(3 t))."""
    return 3 * torch.cos(3 * level_BT)[:, :, None, None, None] * x


@pytest.mark.parametrize("num_steps", [16, 32])
def test_heun_is_of_second_order(num_steps):
    """Twice the steps: a quarter of the error, and half of it for Euler's."""

    def error(solver: str, steps: int) -> float:
        x = torch.full(SHAPE, float(np.exp(np.sin(3.0))), dtype=torch.float64)
        for done in range(steps):
            now = SolverStep.of([(done, steps)] * 2, 1.0, 1.0, solver, torch.device("cpu"))  # type: ignore[arg-type]
            x = denoise_step(bent, None, x, now)
        return float((x - 1).abs().max())

    assert error("heun", num_steps) < error("euler", num_steps) / 2
    assert error("heun", 2 * num_steps) < error("heun", num_steps) / 3
    assert error("euler", 2 * num_steps) > error("euler", num_steps) / 3


def test_heun_asks_for_no_velocity_at_level_0_and_rows_keep_their_own_step():
    x, levels = torch.randn(SHAPE), []

    def asked(x: Tensor, level_BT: Tensor) -> Tensor:
        levels.append(level_BT[:, 0].tolist())
        return bent(x, level_BT)

    last = denoise_step(asked, None, x, step([2, 2], "heun"))
    assert len(levels) == 1 and torch.equal(last, denoise_step(bent, None, x, step([2, 2], "euler")))
    mixed = denoise_step(bent, None, x, step([2, 0], "heun"))
    assert torch.equal(mixed[:1], last[:1])
    assert torch.equal(mixed[1:], denoise_step(bent, None, x, step([0, 0], "heun"))[1:])
