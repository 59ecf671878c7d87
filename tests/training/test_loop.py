"""The shared loop: learning, resuming to the same bits, averaging, clear errors."""

import dataclasses
import json
import os
import signal

import pytest
import torch

from gamegen.config import to_dict
from gamegen.models.checkpoint import load_checkpoint, save_random
from gamegen.models.configs import named_config
from gamegen.models.model import ModelConfig
from gamegen.training.loop import Trainer
from gamegen.training.objectives.flow_matching import change_weight, hold_still, is_still
from gamegen.training.optimisers import OptimiserConfig, learning_rate
from gamegen.training.stage_config import TrainingBucket
from tests.training.samples import (
    SIZE,
    encoded_folder,
    encoded_row,
    latent_feed,
    plain_flow,
    stage,
    trainer,
    write_rows,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return encoded_folder(tmp_path_factory.mktemp("encoded"))


def take(run: Trainer, num_steps: int) -> None:
    steps = run.steps()
    for _ in range(num_steps):
        next(steps)
    steps.close()


@pytest.mark.parametrize("name", ["foundation", "instructnet", "turbo"])
def test_resumed_run_equals_uninterrupted_run(name, data, tmp_path):
    config = stage(name)
    trainer(config, tmp_path / "whole", data).train()
    first = trainer(config, tmp_path / "parts", data)
    take(first, 4)
    first.finish_writing()
    # The fourth step was not saved: it is done again.
    second = trainer(config, tmp_path / "parts", data)
    second.train()
    whole, parts = load_checkpoint(tmp_path / "whole", "cpu"), load_checkpoint(tmp_path / "parts", "cpu")
    for (key, a), b in zip(whole.model.state_dict().items(), parts.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert whole.card["steps"] == parts.card["steps"] == 6
    assert [row["step"] for row in second.history] == [1, 2, 3, 4, 5, 6]


def test_accumulated_micro_batches_equal_nobody_sharing(data, tmp_path):
    """Who computes a micro-batch does not matter: gradients of the parts add up to that of the whole step."""
    unclipped = OptimiserConfig(clip_norm=float("inf"))
    config = stage("instructnet", batch_size=4, micro_batches=2, optimiser=unclipped)

    def gradients(worker: int, num_workers: int) -> tuple[list[int], list[torch.Tensor]]:
        run = trainer(config, tmp_path, data, worker, num_workers)
        torch.nn.init.normal_(
            run.objective.model.foundation.patch_out.weight, generator=torch.Generator().manual_seed(0)
        )
        batches = next(run.feed.batches(0, run.feed.start()))
        run.train_step(batches)
        return [index for index, _ in batches.micro_batches], [p.grad for p in run.parameters]

    indices, together = gradients(0, 1)
    (first_index, first), (second_index, second) = gradients(0, 2), gradients(1, 2)
    assert indices == [0, 1] == [*first_index, *second_index]
    assert any(gradient.any() for gradient in first)
    for whole, one, other in zip(together, first, second, strict=True):
        torch.testing.assert_close(whole, one + other)


def test_a_metric_that_some_steps_lack_is_averaged_over_those_that_have_it(data, tmp_path, monkeypatch):
    run = trainer(stage("instructnet", log_every=6), tmp_path, data)
    metrics = iter([{"every": i} | ({"some": 3 * i} if i % 3 else {}) for i in range(1, 7)])

    def step(_) -> dict[str, float]:
        run.step += 1
        return next(metrics)

    monkeypatch.setattr(run, "train_step", step)
    list(run.steps())
    (row,) = run.history
    assert row["every"] == pytest.approx(3.5) and row["some"] == pytest.approx(9)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_by_hand_ends_its_step_and_saves(data, tmp_path, number):
    config = stage("foundation", save_every=1000)
    untroubled = trainer(config, tmp_path / "untroubled", data)
    untroubled.train()
    run = trainer(config, tmp_path / "run", data)
    run.run = dataclasses.replace(
        run.run, on_log=lambda row: row["step"] == 2 and os.kill(os.getpid(), number)
    )
    with pytest.raises(KeyboardInterrupt) as interrupt:
        run.train()
    assert interrupt.value.args == (number,)
    again = trainer(config, tmp_path / "run", data)
    again.train()
    assert run.step == 2 and again.step == 6
    for name, average in untroubled.averages.items():
        assert torch.equal(again.averages[name], average), name


def test_the_newest_states_are_kept_and_the_weights_of_older_ones_archived(data, tmp_path):
    config = stage("foundation", save_every=1, keep_states=2)
    run = trainer(config, tmp_path, data)
    averages = []
    for _ in run.steps():
        averages.append({name: tensor.clone() for name, tensor in run.averages.items()})
    run.finish_writing()
    assert run.states.steps()[-2:] == [5, 6] and len(run.states.steps()) <= 3
    archived = load_checkpoint(tmp_path / "archive" / "000002", "cpu")
    assert archived.card["steps"] == 2
    weights = archived.model.state_dict()
    for name, average in averages[1].items():
        assert torch.equal(weights[name], average.bfloat16().float()), name


def test_a_state_cut_off_while_it_was_written_is_passed_over(data, tmp_path):
    config = stage("foundation")
    trainer(config, tmp_path, data).train()
    (tmp_path / "states" / "000009").mkdir()
    (tmp_path / "states" / "000009" / "__0_0.distcp").write_bytes(b"half")
    again = trainer(config, tmp_path, data)
    again.resume()
    assert again.step == 6


def test_the_model_learns_that_a_still_clip_stays_still(tmp_path):
    row = encoded_row(0)
    row["latents"] = row["latents"][: len(row["latents"]) // 20] * 20
    data = write_rows(tmp_path / "data", [row])
    config = stage(
        "foundation",
        steps=60,
        save_every=1000,
        buckets=(TrainingBucket(SIZE, 12),),
        optimiser=OptimiserConfig(learning_rate=1e-2, warmup_steps=1),
        flow=plain_flow(text_to_video=0.0),
    )
    run = trainer(config, tmp_path, data)

    def measured() -> float:
        generator = torch.Generator().manual_seed(7)
        return run.objective.loss(run.feed.example(), generator, 0.0)[0].item()

    before = measured()
    take(run, 60)
    assert measured() < 0.7 * before


def test_a_frozen_foundation_stays_as_it_is(data, tmp_path):
    run = trainer(stage("instructnet"), tmp_path, data)
    # An untrained foundation's last layer is zero and would pass no gradient on.
    torch.nn.init.normal_(run.objective.model.foundation.patch_out.weight)
    before = {k: v.clone() for k, v in run.objective.model.foundation.state_dict().items()}
    take(run, 3)
    assert all(torch.equal(before[k], v) for k, v in run.objective.model.foundation.state_dict().items())
    assert any(p.grad is not None and p.grad.any() for p in run.objective.model.instructnet.parameters())


def test_still_latents_count_more_and_keep_what_was_drawn(data):
    batch = latent_feed(stage("instructnet"), data).example()
    latents = batch.latents.clone()
    latents[0, 1] = latents[0, 0]
    previous = torch.cat([batch.previous[:, :1], latents[:, :-1]], 1)
    batch = dataclasses.replace(batch, latents=latents, previous=previous)
    still = is_still(batch)
    assert still.tolist() == [[False, True, False], [False, False, False]]
    ratio = change_weight(batch, 4.0)[0, 1].mean() / change_weight(batch, 1.0)[0, 1].mean()
    assert ratio > 3

    guess = torch.randn_like(latents)
    drawn = hold_still(guess, latents, still[..., None, None, None])
    assert torch.equal(drawn[0, 1], guess[0, 0])
    assert torch.equal(drawn[0, 2], guess[0, 2]) and torch.equal(drawn[1], guess[1])


def test_learning_rate_warms_up_and_decays():
    config = OptimiserConfig(learning_rate=1.0, warmup_steps=10, decay_fraction=0.5, final_rate=0.1)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 100, 0.5) == pytest.approx(1.0)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.1)


def test_a_stage_creates_its_parts_in_the_sizes_of_the_named_model(tmp_path):
    sizes = named_config("base")
    vae, weights = stage("vae", model="base").start(None, tmp_path)
    assert weights == {} and vae == ModelConfig(sizes.vae, width=sizes.width, height=sizes.height)
    save_random(tmp_path / "vae", dataclasses.replace(ModelConfig.tiny(), foundation=None, instructnet=None))
    with pytest.raises(ValueError, match=r"latent_channels = 16, but the VAE has 4"):
        stage("foundation", model="base").start(tmp_path / "vae", tmp_path)
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(json.dumps(to_dict(ModelConfig.tiny())))
    grown, _ = stage("instructnet", model=str(tiny)).start(tmp_path / "vae", tmp_path)
    assert grown == ModelConfig.tiny()
