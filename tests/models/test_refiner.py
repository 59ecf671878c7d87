"""The refiner of MSDiT, and what else the stages change of a model that they go on with."""

from __future__ import annotations

import dataclasses
import json

import torch

from gamegen.config import to_dict
from gamegen.models.checkpoint import load_checkpoint, save_random
from gamegen.models.model import ModelConfig
from gamegen.models.msdit import PATCH, MSDiT, MSDiTConfig
from gamegen.models.network_inputs import Previous, Text
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.instructnet import InstructNetStage

PLAIN = dataclasses.replace(MSDiTConfig.tiny(), refiner_width=0)


def velocity(network: MSDiT, x: torch.Tensor) -> torch.Tensor:
    B, T = x.shape[:2]
    previous = Previous(torch.zeros_like(x), torch.zeros_like(x), torch.full((B, T), -1.0))
    with torch.inference_mode():
        return network(x, torch.full((B, T), 0.5), previous, Text.none(B, 384))


def test_a_model_that_is_given_a_refiner_begins_as_it_was(tmp_path):
    tiny = ModelConfig.tiny()
    save_random(tmp_path, dataclasses.replace(tiny, foundation=PLAIN))
    (tmp_path / "tiny.yaml").write_text(json.dumps(to_dict(tiny)))
    stage = InstructNetStage(
        model=str(tmp_path / "tiny.yaml"), steps=1, buckets=(TrainingBucket("128x72", 4),)
    )
    after = stage.build_model(tmp_path, tmp_path, tmp_path).foundation
    before = load_checkpoint(tmp_path, "cpu").model.foundation
    assert before.refiner is None and after.config == tiny.foundation
    x = torch.randn(2, 3, 4, 4, 8)
    assert torch.equal(velocity(after, x), velocity(before, x))


def test_a_student_that_learns_on_is_sampled_by_its_flow(tmp_path):
    tiny = ModelConfig.tiny()
    distilled = dataclasses.replace(tiny.sampling, solver="consistency", num_steps=2, first_steps=6)
    save_random(tmp_path, dataclasses.replace(tiny, sampling=distilled))
    (tmp_path / "tiny.yaml").write_text(json.dumps(to_dict(tiny)))
    stage = InstructNetStage(
        model=str(tmp_path / "tiny.yaml"), steps=1, buckets=(TrainingBucket("128x72", 4),)
    )
    sampling = stage.build_model(tmp_path, tmp_path, tmp_path).config.sampling
    assert (sampling.solver, sampling.num_steps, sampling.first_steps) == ("euler", 4, 12)


def test_each_latent_sees_its_neighbours_of_other_tokens_and_no_other_frame():
    """With layers that draw nothing, all is the refiner's: two convolutions before, two inside, one after."""
    torch.manual_seed(0)
    network = MSDiT(MSDiTConfig.tiny()).eval()
    for layer in (network.refiner.out, network.refiner.modulation):
        torch.nn.init.normal_(layer.weight, std=0.1)
    network.refiner.tokens_in.weight.data.zero_()
    x = torch.randn(1, 2, 4, 16, 16)
    changed = x.clone()
    changed[0, 1, :, 8, 8] += 1
    moved = (velocity(network, changed) != velocity(network, x)).any(2)[0]
    assert not moved[0].any()
    rows, columns = moved[1].nonzero().T
    assert 8 % PATCH == 0 and rows.min() < 8 < rows.max() and columns.min() < 8 < columns.max()
    assert (rows - 8).abs().max() <= 4 and (columns - 8).abs().max() <= 4
