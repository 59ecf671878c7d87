"""The adversarial stage: rollouts are what the engine plays, and a critic moves what is drawn towards what is real."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gamegen.controls import Control
from gamegen.engine import batch_inputs
from gamegen.engine.engine import WorldEngine
from gamegen.media.mp4 import encode_mp4
from gamegen.models.checkpoint import load_checkpoint, save_checkpoint
from gamegen.models.folding import from_pixels
from gamegen.models.instructnet import ControlInputs
from gamegen.models.model import Model
from gamegen.models.motion_compensation import PAST_CHUNKS
from gamegen.models.network_inputs import Text
from gamegen.models.opening import Opening
from gamegen.training.discriminator import held_scores
from gamegen.training.feed import Feed
from gamegen.training.latent_discriminator import (
    LatentDiscriminator,
    LatentDiscriminatorConfig,
    pairing_loss,
    roughness,
)
from gamegen.training.latent_windows import WindowMotion
from gamegen.training.loop import Run, Trainer
from gamegen.training.objectives import rollout
from gamegen.training.objectives.replay_buffer import ReplayBuffer
from gamegen.training.objectives.rollout import roll_out
from gamegen.training.rollout_windows import RolloutBatch
from gamegen.training.run_stage import run_stage
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.adversarial import AdversarialConfig
from gamegen.training.window_plan import WindowPlan, index_clips
from tests.engine.test_world import random_model, words
from tests.training.samples import SIZE, plain_flow, stage, write_rows
from tests.training.test_motion_compensation import moved_row, random_frames

CONFIG = AdversarialConfig(discriminator=LatentDiscriminatorConfig.tiny())
FLOW = plain_flow(scheduled_sampling=0.0, worn_windows=0.0)
BUCKETS = (TrainingBucket(SIZE, 12, 0.75), TrainingBucket(SIZE, 4, 0.25))
KEYS = ({"w"}, {"left"}, set(), {"d", "space"})


@pytest.fixture
def model() -> Model:
    return random_model(moves=True)


@pytest.fixture
def data(model: Model, tmp_path: Path) -> Path:
    rows = [
        moved_row(model, seed)
        | {"video": encode_mp4(random_frames(seed, 20).numpy(), 24, crf=1, pixel_format="yuv444p")}
        for seed in range(3)
    ]
    return write_rows(tmp_path / "encoded", rows)


def adversarial(**changes):
    return stage("adversarial", **{"buckets": BUCKETS, "flow": FLOW, "adversarial": CONFIG} | changes)


def first_batch(model: Model, data: Path, config=None) -> RolloutBatch:
    config = config or adversarial(buckets=(TrainingBucket(SIZE, 20),))
    windows = config.windows(model.config)
    return Feed(WindowPlan(config, index_clips(data, "train", windows.length_column)), windows).example()


def text(seed: int) -> Text:
    states = words(seed)
    return Text.stack([(states.tokens, states.pooled)], 384)


@pytest.mark.parametrize("solver", ["euler", "consistency"])
def test_a_rollout_is_what_the_engine_plays(solver, model, monkeypatch):
    """Chunk for chunk, with caches, moved frames and an instruction on the way; noise is zeros in both."""
    sampling = dataclasses.replace(model.config.sampling, solver=solver)
    model.config = dataclasses.replace(model.config, sampling=sampling)
    monkeypatch.setattr(batch_inputs, "counter_noise", lambda *_: torch.zeros(_[-1]))
    monkeypatch.setattr(rollout._Player, "_noise", lambda _, like: torch.zeros_like(like))
    first = torch.randn(1, *model.config.latent_shape, generator=torch.Generator().manual_seed(1))
    frames = random_frames(0, 1)[-2:]
    # Rollouts are of a few chunks, and keep no earlier views.
    monkeypatch.setattr(model, "recalls_views", False)
    engine = WorldEngine(model)
    engine.open("a", words(1), 0, Opening(first, shown=frames))
    played = []
    for number, keys in enumerate(KEYS):
        if number == 2:
            engine.instruct("a", words(9))
        played.append(torch.from_numpy(engine.step({"a": Control(keys).operations()})["a"]).float())

    operations = np.stack(
        [np.zeros_like(Control(set()).operations()), *(Control(k).operations() for k in KEYS)]
    )
    latents = torch.cat([first, torch.zeros(4, *first.shape[1:])])[None]
    batch = RolloutBatch(
        latents=latents,
        previous=latents,
        starts=torch.tensor([True]),
        prompt=text(1),
        first_prompt=text(1),
        controls=ControlInputs(
            torch.from_numpy(operations)[None],
            torch.ones(1, 5, dtype=torch.bool),
            text(9),
            torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]]),
        ),
        motion=WindowMotion(
            torch.zeros_like(latents),
            torch.zeros_like(latents[:, :, :1]),
            torch.zeros_like(latents),
            torch.zeros(1, PAST_CHUNKS, *operations.shape[1:]),
        ),
        shown=from_pixels(frames)[None],
    )
    with torch.no_grad():
        drawn = roll_out(model, batch, text(1), torch.Generator()).drawn[0]
    # The engine rounds what it was given, and what it drew, to float16; what is shown rounds to 8 bits.
    torch.testing.assert_close(drawn, torch.stack(played), rtol=0.02, atol=0.02)
    assert (drawn[1:] - drawn[:-1]).abs().mean() > 0.05


def test_windows_begin_with_the_frames_that_their_first_chunk_ends_with(model, data):
    batch = first_batch(model, data)
    rows = {seed: moved_row(model, seed) for seed in range(3)}
    assert batch.shown.shape == (2, 2, 3, 32, 32) and batch.latents.shape[1] == 5
    for row in range(2):
        latent, num_found = batch.latents[row, 0].half(), 0
        for seed, each in rows.items():
            whole = np.frombuffer(each["latents"], np.float16).reshape(-1, *latent.shape)
            for chunk in np.flatnonzero([np.array_equal(one, latent.numpy()) for one in whole]):
                expected = from_pixels(random_frames(seed, 20)[4 * chunk + 2 : 4 * chunk + 4])
                # The video is of noise, and lossy.
                assert F.mse_loss(batch.shown[row], expected) < 0.1 * expected.var()
                num_found += 1
        assert num_found == 1


def test_clips_encoded_without_their_frames_are_refused(model, tmp_path):
    data = write_rows(tmp_path / "old", [moved_row(model, 0)])
    with pytest.raises(ValueError, match="encode the clips again"):
        first_batch(model, data)


def test_a_model_without_motion_compensation_is_refused(data):
    plain = random_model()
    batch = dataclasses.replace(first_batch(random_model(moves=True), data))
    with pytest.raises(ValueError, match="no motion-compensated latents"):
        roll_out(plain, batch, batch.prompt, torch.Generator())


def test_gradients_reach_what_draws_and_the_critic_each_from_its_own_loss(model, data):
    batch = first_batch(model, data)
    for weight in (0.0, 1.0):
        silent = {"area_weight": 0.0, "near_weight": 0.0, "still_weight": 0.0, "roughness_weight": 0.0}
        config = dataclasses.replace(CONFIG, adversarial_weight=weight, **silent)
        objective = adversarial(adversarial=config).objective(model)
        model.zero_grad()
        loss, metrics = objective.loss(batch, torch.Generator().manual_seed(0), 0.0)
        loss.backward()
        learned = any(
            p.grad is not None and p.grad.any()
            for p in [*model.foundation.parameters(), *model.instructnet.parameters()]
        )
        assert learned == (weight > 0)
        assert all(p.grad is not None for p in objective.discriminator.parameters())
        assert not any(p.grad is not None for p in model.vae.parameters())
        assert metrics["judging"] > 0


def test_every_chunk_is_drawn_from_what_was_shown_before(model, data):
    """And what a later chunk is like has no say in an earlier one."""
    batch = first_batch(model, data)
    with torch.no_grad():
        one = roll_out(model, batch, batch.prompt, torch.Generator().manual_seed(0)).drawn
        other_frames = dataclasses.replace(batch, shown=-batch.shown)
        two = roll_out(model, other_frames, batch.prompt, torch.Generator().manual_seed(0)).drawn
        operations = batch.controls.operations.clone()
        operations[:, 3] += 1
        controls = dataclasses.replace(batch.controls, operations=operations)
        three = roll_out(
            model,
            dataclasses.replace(batch, controls=controls),
            batch.prompt,
            torch.Generator().manual_seed(0),
        ).drawn
    assert ((one - two).abs().mean((0, 2, 3, 4)) > 1e-3).all()
    assert torch.equal(one[:, :2], three[:, :2]) and not torch.equal(one[:, 2], three[:, 2])


def test_replayed_windows_go_on_where_a_rollout_ended_under_its_words_and_the_new_keys(model, data):
    batch, buffer = first_batch(model, data), ReplayBuffer(model, size=3, max_chunks=10)
    nothing = buffer.go_on(batch, batch.prompt, 1.0, torch.Generator().manual_seed(0))
    assert nothing[0] is batch and not nothing[2].any()
    shown, latent = torch.rand(2, 2, 3, 32, 32) * 2 - 1, torch.randn(2, 4, 4, 4)
    active = torch.ones(2, 5)
    other = dataclasses.replace(
        batch, controls=dataclasses.replace(batch.controls, instruction=text(3), instruction_active=active)
    )
    prompts = Text.stack([(words(seed).tokens, words(seed).pooled) for seed in (1, 2)], 384)
    other = dataclasses.replace(
        other, controls=dataclasses.replace(other.controls, instruction=_twice(other.controls.instruction))
    )
    buffer.add(other, prompts, torch.tensor([0, 3]), shown, latent)
    on, prompt, ages = buffer.go_on(batch, batch.prompt, 1.0, torch.Generator().manual_seed(0))
    for row in range(2):
        found = int(ages[row] == 7)
        assert ages[row] == (4, 7)[found]
        torch.testing.assert_close(on.shown[row], shown[found], atol=1 / 127, rtol=0)
        assert torch.equal(on.latents[row, 0], latent[found])
        assert torch.equal(on.latents[row, 1:], batch.latents[row, 1:])
        assert torch.equal(prompt.pooled[row], prompts.pooled[found]) and prompt.mask[row].sum() == 5
        assert torch.equal(on.controls.instruction.pooled[row], words(3).pooled)
        assert (on.controls.instruction_active[row] == 1).all() and on.starts[row]
        operations = on.controls.operations[row]
        assert torch.equal(operations[0], other.controls.operations[found, -1])
        assert torch.equal(operations[1:], batch.controls.operations[row, 1:])
        assert torch.equal(on.motion.past_operations[row], other.controls.operations[found, -4:-1])
    # Too old for another rollout: forgotten, in the free place and in that of the oldest.
    buffer.add(other, prompts, torch.tensor([7, 8]), shown, latent)
    assert sorted(buffer.age.tolist()) == [-1, -1, 4]


def _twice(one: Text) -> Text:
    return one.rows(torch.tensor([0, 0]))


def test_of_replayed_windows_the_critic_alone_is_learned_from(model, data):
    batch = first_batch(model, data)
    config = dataclasses.replace(CONFIG, replayed_windows=1.0)
    objective = adversarial(adversarial=config).objective(model)
    _, first = objective.loss(batch, torch.Generator().manual_seed(0), 0.0)
    _, second = objective.loss(batch, torch.Generator().manual_seed(1), 0.0)
    assert first["age"] == 0 and second["age"] == 4
    assert first["near_error"] > 0 and second["near_error"] == 0 and second["fooling"] > 0
    again = adversarial(adversarial=config).objective(model)
    again.restore(objective.state())
    assert all(
        torch.equal(a, b) for a, b in zip(again.state().values(), objective.state().values(), strict=True)
    )
    assert again.state()["age"].max() == 8
    with torch.no_grad():
        _, validation = again.loss(batch, torch.Generator().manual_seed(2), 0.0)
    assert validation["age"] == 0 and again.state()["age"].max() == 8


def test_a_critic_tells_latents_apart_and_moves_fakes_towards_real_ones():
    torch.manual_seed(0)
    critic = LatentDiscriminator(LatentDiscriminatorConfig.tiny(), latent_channels=4, condition_size=6)
    optimiser = torch.optim.Adam(critic.parameters(), 3e-3)
    fake = torch.zeros(8, 8, 4, 4, requires_grad=True)
    condition = torch.randn(8, 6)
    for _ in range(60):
        real = 1 + 0.1 * torch.randn(8, 8, 4, 4)
        loss = pairing_loss(critic(real, condition), critic(fake.detach(), condition))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3
    fooling = pairing_loss(
        held_scores(critic, fake, condition), [s.detach() for s in critic(real, condition)]
    )
    optimiser.zero_grad()
    fooling.backward()
    assert (fake.grad.mean((0, 2, 3)) < 0).float().mean() > 0.8
    assert all(p.grad is None or not p.grad.any() for p in critic.parameters())


def test_places_count_by_their_weight():
    generator = torch.Generator().manual_seed(0)
    real, fake = ([torch.randn(2, 1, side, side, generator=generator) for side in (4, 2)] for _ in range(2))
    assert pairing_loss(fake, real, torch.full((2, 1, 4, 4), 5.0)) == pytest.approx(
        pairing_loss(fake, real).item()
    )
    weight = torch.zeros(2, 1, 4, 4)
    weight[0, 0, 2:, 2:] = 1
    corner = [torch.nn.functional.softplus(b - a)[0, 0] for a, b in zip(fake, real, strict=True)]
    alone = (corner[0][2:, 2:].mean() + corner[1][1, 1]) / 2
    assert pairing_loss(fake, real, weight) == pytest.approx(alone.item())


def test_what_comes_into_view_counts_more(model, data):
    batch, losses = first_batch(model, data), []
    for new_weight in (0.0, 0.0, 9.0):
        config = dataclasses.replace(CONFIG, new_weight=new_weight)
        objective = adversarial(adversarial=config).objective(model)
        objective.discriminator.load_state_dict(critic_state(objective))
        losses.append(objective.loss(batch, torch.Generator().manual_seed(0), 0.0)[1]["fooling"])
    assert losses[0] == losses[1] != losses[2]


def critic_state(objective) -> dict[str, torch.Tensor]:
    """Weights of a critic, the same for every call."""
    generator = torch.Generator().manual_seed(1)
    state = objective.discriminator.state_dict()
    return {name: 0.2 * torch.randn(value.shape, generator=generator) for name, value in state.items()}


def test_roughness_is_the_squared_slope():
    scores, noise = (
        [torch.zeros(2, 1, 4, 4)],
        0.1 * torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
    )
    assert roughness(scores, [3 * noise], 0.1).item() == pytest.approx(
        9 * (noise / 0.1).square().mean().item()
    )


def test_a_stopped_run_goes_on_as_if_it_had_not_been(model, data, tmp_path, monkeypatch):
    init = tmp_path / "init"
    save_checkpoint(init, model.config, model.state_dict(), {"licence": "CC0-1.0"})
    replayed = dataclasses.replace(CONFIG, replayed_windows=1.0)
    config = adversarial(adversarial=replayed, steps=4, save_every=2)
    whole = run_stage(config, data, Run(output=tmp_path / "whole", show_progress=False), init)
    parts = Run(output=tmp_path / "parts", show_progress=False)

    def three_steps(trainer: Trainer) -> Path:
        list(itertools.islice(trainer.steps(), 3))
        trainer.finish_writing()
        return trainer.run.output

    with monkeypatch.context() as stopping:
        stopping.setattr(Trainer, "train", three_steps)
        run_stage(config, data, parts, init)
    # The third step was not saved: it is done again.
    run_stage(config, data, parts, init)
    one, two, began = (load_checkpoint(folder).model.state_dict() for folder in (whole, parts.output, init))
    # Up to rounding in bfloat16, which depends on where tensors lie in memory. Other rollouts would differ by far more.
    torch.testing.assert_close(one, two, rtol=1e-3, atol=2e-5)
    changed = {name.split(".")[0] for name in one if not torch.equal(one[name], began[name])}
    assert changed == {"foundation", "instructnet"}
    assert load_checkpoint(whole).config.sampling.num_steps == CONFIG.num_steps
