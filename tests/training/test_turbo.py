"""Distillation: levels that grow in number, students that land where the teacher leads."""

import copy
import dataclasses
import itertools

import pytest
import torch

from gamegen.flow import expand_levels, schedule
from gamegen.models.model import Model, ModelConfig
from gamegen.training.objectives.flow_inputs import FlowInputs
from gamegen.training.stages.turbo import TurboConfig, TurboObjective, num_levels
from tests.training.samples import encoded_folder, latent_feed, plain_flow, stage


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TurboConfig(num_levels=24, first_levels=3), [3, 6, 12, 24, 24]),
        (TurboConfig(num_levels=10, first_levels=4), [4, 4, 8, 10, 10]),
        (TurboConfig(num_levels=4, first_levels=4), [4, 4, 4, 4, 4]),
    ],
)
def test_levels_double_to_the_number_asked_for(config, expected):
    assert [num_levels(config, progress) for progress in (0.0, 0.3, 0.6, 0.9, 1.0)] == expected


def test_more_first_levels_than_there_are_in_the_end_are_refused():
    with pytest.raises(ValueError, match="first_levels = 8"):
        TurboConfig(num_levels=4, first_levels=8)


@torch.no_grad()
def teacher_lands(objective: TurboObjective, x: torch.Tensor, inputs: FlowInputs) -> torch.Tensor:
    """The end of the guided teacher's Euler steps from noise."""
    config = objective.turbo
    everything = torch.ones(len(x), dtype=torch.bool)
    unconditional = FlowInputs(inputs.previous, inputs.prompt.dropped(everything), inputs.controls.dropped())
    levels = schedule(config.num_levels, config.shift)
    for level, following in itertools.pairwise(levels):
        level_BT = torch.full(x.shape[:2], level)
        plain, without = (
            objective.velocity(objective.teacher[0], objective.teacher[1], x, level_BT, given)
            for given in (inputs, unconditional)
        )
        x = x + (following - level) * (without + config.guidance_scale * (plain - without))
    return x


@torch.no_grad()
def student_lands(objective: TurboObjective, x: torch.Tensor, inputs: FlowInputs) -> torch.Tensor:
    """The student's guess of x_0 in one pass from noise."""
    level_BT = torch.ones(x.shape[:2])
    velocity = objective.velocity(objective.foundation, objective.instructnet, x, level_BT, inputs)
    return x - expand_levels(level_BT) * velocity


@pytest.mark.parametrize("levels", [1, 3])
def test_a_student_lands_in_one_pass_where_the_guided_teacher_leads_in_many(levels, tmp_path):
    torch.manual_seed(0)
    config = stage(
        "turbo",
        batch_size=4,
        flow=plain_flow(scheduled_sampling=0.0),
        turbo=TurboConfig(
            num_levels=levels, first_levels=levels, shift=1.0, guidance_scale=2.0, target_ema=0.5
        ),
    )
    # A refiner of random weights would lead where no student follows in a few steps.
    tiny = ModelConfig.tiny()
    model = Model(dataclasses.replace(tiny, foundation=dataclasses.replace(tiny.foundation, refiner_width=0)))
    with torch.no_grad():
        # Many weights of an untrained teacher are zero: it would lead nowhere, whatever it is told.
        for weight in (*model.foundation.parameters(), *model.instructnet.parameters()):
            weight += 0.1 * torch.randn_like(weight)
    objective = config.objective(model)
    teacher = copy.deepcopy(objective.teacher.state_dict())
    batch = latent_feed(config, encoded_folder(tmp_path / "data")).example()
    inputs = objective.draw_inputs(batch, torch.Generator().manual_seed(1))
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(2))

    def distance() -> float:
        goal = teacher_lands(objective, noise, inputs)
        return (student_lands(objective, noise, inputs) - goal).square().mean().item()

    before = distance()
    parameters = [p for module in objective.trained_modules().values() for p in module.parameters()]
    optimiser = torch.optim.Adam(parameters, 2e-3)
    for step in range(200):
        if step % 20 == 0 and distance() < 0.5 * before:
            break
        optimiser.zero_grad()
        objective.loss(batch, torch.Generator().manual_seed(100 + step), 1.0)[0].backward()
        optimiser.step()
        objective.after_step()
    assert distance() < 0.5 * before
    assert all(torch.equal(teacher[name], weight) for name, weight in objective.teacher.state_dict().items())
