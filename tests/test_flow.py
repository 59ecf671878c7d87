"""Flow matching's algebra."""

import itertools

import pytest
import torch

from gamegen.flow import add_noise, counter_noise, predict_x0, schedule
from gamegen.models.msdit import velocity_of_output


def test_velocity_leads_back_to_the_data():
    x0, noise, level = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2), torch.rand(2, 3)
    torch.testing.assert_close(predict_x0(add_noise(x0, noise, level), noise - x0, level), x0)


def test_schedule_runs_from_noise_to_data():
    levels = schedule(5, shift=3.0)
    assert levels[0] == 1 and levels[-1] == 0 and len(levels) == 6
    assert all(a > b for a, b in itertools.pairwise(levels))
    with pytest.raises(ValueError, match="num_steps = 0"):
        schedule(0)


def test_noise_is_a_function_of_its_counter():
    draw = lambda *key: counter_noise(*key, (4, 3, 3))  # noqa: E731
    assert torch.equal(draw(1, 2, "start"), draw(1, 2, "start"))
    for other in ((2, 2, "start"), (1, 3, "start"), (1, 2, "commit")):
        assert not torch.equal(draw(1, 2, "start"), draw(*other))


def test_preconditioned_output_gives_the_velocity():
    x0, noise, level = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2), torch.rand(2, 3)
    t = level[:, :, None, None, None]
    output = (t * x0 - (1 - t) * noise) / (t**2 + (1 - t) ** 2).sqrt()
    velocity = velocity_of_output(output, add_noise(x0, noise, level), level)
    torch.testing.assert_close(velocity, noise - x0, rtol=1e-4, atol=1e-4)
