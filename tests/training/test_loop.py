"""The shared loop: learning, resuming to the same bits, averaging, clear errors."""

import dataclasses
import json

import pytest
import torch

from gamegen.config import to_dict
from gamegen.curation.encoded import EncodedClip, EncodedInstruction, Segment
from gamegen.models.checkpoint import Model, ModelConfig, load_checkpoint, save_random
from gamegen.models.configs import named_config
from gamegen.models.text import TextStates
from gamegen.training.config import FlowLossConfig, OptimiserConfig, StageConfig, TurboConfig
from gamegen.training.data import ClipBuffer, LatentBatch, latent_batch, training_batch
from gamegen.training.loop import Run, Trainer, learning_rate, start_model
from gamegen.training.objectives import as_drawn, build_objective, change_weight, is_still
from gamegen.training.stages import load_stage, stage_file


def states(seed: int) -> TextStates:
    tokens = torch.randn(3 + seed % 3, 384, generator=torch.Generator().manual_seed(seed))
    return TextStates(tokens, tokens.mean(0))


def clip(seed: int) -> EncodedClip:
    generator = torch.Generator().manual_seed(seed)
    truth = ["x"] * 20
    return EncodedClip(
        str(seed),
        torch.randn(20, 4, 4, 4, generator=generator).half(),
        torch.randn(20, 4, 9, generator=generator).half(),
        [Segment(0, [states(seed), states(seed + 1)]), Segment(10, [states(seed + 2)])],
        [EncodedInstruction(10, "time", states(seed + 3))],
        truth,
        truth,
        truth,
        truth,
    )


def stage(name: str, **changes) -> StageConfig:
    config = StageConfig(
        name,
        steps=6,
        batch_size=2,
        window=3,
        save_every=3,
        log_every=1,
        optimiser=OptimiserConfig(warmup_steps=1),
        turbo=TurboConfig(num_levels=4),
    )
    return dataclasses.replace(config, **changes)


def batch_at(config: StageConfig):
    buffer = ClipBuffer(iter(range(3)), clip, 10, config.seed)
    return lambda step: training_batch(buffer, step, config, lambda x: x)


def trainer(config: StageConfig, folder) -> Trainer:
    torch.manual_seed(0)
    model_config = ModelConfig.tiny()
    if config.stage == "foundation":
        model_config = dataclasses.replace(model_config, instructnet=None)
    objective = build_objective(Model(model_config), config)
    return Trainer(objective, config, Run(folder, show_progress=False), batch_at(config))


@pytest.mark.parametrize("name", ["foundation", "instructnet", "turbo"])
def test_resumed_run_equals_uninterrupted_run(name, tmp_path):
    config = stage(name)
    trainer(config, tmp_path / "whole").train()
    trainer(dataclasses.replace(config, steps=3), tmp_path / "parts")
    first = trainer(config, tmp_path / "parts")
    while first.step < 3:
        first.train_step()
    first.save()
    trainer(config, tmp_path / "parts").train()
    whole, parts = load_checkpoint(tmp_path / "whole", "cpu"), load_checkpoint(tmp_path / "parts", "cpu")
    for (key, a), b in zip(whole.model.state_dict().items(), parts.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert whole.card["steps"] == parts.card["steps"] == 6


def test_a_run_stopped_by_hand_saves_first(tmp_path):
    config = stage("foundation", save_every=1000)
    run = trainer(config, tmp_path)
    batches = run.batch_at

    def stop_at_two(step: int):
        if step == 2:
            raise KeyboardInterrupt
        return batches(step)

    run.batch_at = stop_at_two
    with pytest.raises(KeyboardInterrupt):
        run.train()
    again = trainer(config, tmp_path)
    again.resume()
    assert again.step == 2


def test_the_model_learns_that_a_still_clip_stays_still(tmp_path):
    config = stage("foundation", steps=60, save_every=1000, optimiser=OptimiserConfig(1e-2, warmup_steps=1))
    config = dataclasses.replace(config, flow=dataclasses.replace(config.flow, text_to_video=0.0))
    still = clip(0)
    still = dataclasses.replace(still, latents=still.latents[:1].expand(20, -1, -1, -1))
    buffer = ClipBuffer(iter([still]), lambda ready: ready, 1, 0)
    run = trainer(config, tmp_path)
    run.batch_at = lambda step: latent_batch(buffer, step, 2, 3, config.flow, lambda x: x)

    def measured() -> float:
        generator = torch.Generator().manual_seed(7)
        return run.objective.loss(run.batch_at(0), generator, 0.0)[0].item()

    before = measured()
    for _ in range(60):
        run.train_step()
    assert measured() < 0.7 * before


def test_a_frozen_foundation_stays_as_it_is(tmp_path):
    run = trainer(stage("instructnet"), tmp_path)
    # An untrained foundation's last layer is zero and would pass no gradient on.
    torch.nn.init.normal_(run.objective.model.foundation.patch_out.weight)
    before = {k: v.clone() for k, v in run.objective.model.foundation.state_dict().items()}
    for _ in range(3):
        run.train_step()
    assert all(torch.equal(before[k], v) for k, v in run.objective.model.foundation.state_dict().items())
    assert any(p.grad is not None and p.grad.any() for p in run.objective.model.instructnet.parameters())


def test_image_steps_hold_as_many_latents_with_nothing_before_them():
    config = stage("instructnet", flow=FlowLossConfig(image_share=0.5))
    batches = [batch_at(config)(step) for step in range(20)]
    images = [batch for batch in batches if batch.latents.shape[1] == 1]
    assert 0 < len(images) < 20
    for batch in batches:
        assert batch.latents.shape[:2].numel() == config.batch_size * config.window
    for batch in images:
        assert batch.starts.all()
        objective = build_objective(Model(ModelConfig.tiny()), config)
        inputs = objective.draw_inputs(batch, torch.Generator().manual_seed(0))
        assert (inputs.previous.level == -1).all()


def test_windows_align_words_with_the_scene():
    config = stage("instructnet", batch_size=64, flow=FlowLossConfig(image_share=0.0))
    batch: LatentBatch = batch_at(config)(0)
    assert batch.latents.shape == (64, 3, 4, 4, 4)
    torch.testing.assert_close(batch.previous[:, 1:], batch.latents[:, :-1])
    active = batch.controls.instruction_active
    # An instruction, once in force, stays in force; some windows have it from their start, some not at all.
    assert (active[:, 1:] >= active[:, :-1]).all()
    assert active.min() == 0 and active.max() == 1


def test_windows_are_drawn_where_nobody_touches_a_key():
    moving = clip(0)
    operations = torch.ones_like(moving.operations)
    operations[15] = 0
    moving = dataclasses.replace(moving, operations=operations, instructions=[])
    buffer = ClipBuffer(iter([moving]), lambda ready: ready, 1, 0)
    flow = FlowLossConfig(transition_windows=0.0, still_windows=1.0)
    batch = latent_batch(buffer, 0, 16, 3, flow, lambda x: x)
    assert (batch.controls.operations == 0).flatten(2).all(2).any(1).all()


def test_still_latents_count_more_and_keep_what_was_drawn():
    config = stage("instructnet", flow=FlowLossConfig(image_share=0.0))
    batch = batch_at(config)(0)
    latents = batch.latents.clone()
    latents[0, 1] = latents[0, 0]
    previous = torch.cat([batch.previous[:, :1], latents[:, :-1]], 1)
    batch = dataclasses.replace(batch, latents=latents, previous=previous)
    still = is_still(batch)
    assert still.tolist() == [[False, True, False], [False, False, False]]
    ratio = change_weight(batch, 4.0)[0, 1].mean() / change_weight(batch, 1.0)[0, 1].mean()
    assert ratio > 3

    guess = torch.randn_like(latents)
    drawn = as_drawn(guess, latents, still[..., None, None, None])
    assert torch.equal(drawn[0, 1], guess[0, 0])
    assert torch.equal(drawn[0, 2], guess[0, 2]) and torch.equal(drawn[1], guess[1])


def test_learning_rate_warms_up_and_decays():
    config = OptimiserConfig(1.0, warmup_steps=10, decay_fraction=0.5, final_rate=0.1)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 100, 0.5) == pytest.approx(1.0)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.1)


def test_shipped_stages_load_and_wrong_ones_are_named(tmp_path):
    for name in ("vae", "foundation", "instructnet", "turbo", "decoder"):
        assert load_stage(stage_file(name)).stage == name
    with pytest.raises(ValueError, match="no stage 'gan'"):
        stage_file("gan")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("stage: vae\nspeed: 3\n")
    with pytest.raises(ValueError, match=r"wrong.yaml: unknown key 'speed'"):
        load_stage(wrong)
    with pytest.raises(ValueError, match="builds on another"):
        start_model(stage("foundation"), None)


def test_a_stage_creates_its_parts_in_the_sizes_of_the_named_model(tmp_path):
    sizes = named_config("base")
    vae, weights = start_model(stage("vae", model="base"), None)
    assert weights == {} and vae == ModelConfig(sizes.vae, width=sizes.width, height=sizes.height)
    save_random(tmp_path / "vae", dataclasses.replace(ModelConfig.tiny(), foundation=None, instructnet=None))
    with pytest.raises(ValueError, match=r"latent_channels = 16, but the VAE has 4"):
        start_model(stage("foundation", model="base"), tmp_path / "vae")
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(json.dumps(to_dict(ModelConfig.tiny())))
    grown, _ = start_model(stage("instructnet", model=str(tiny)), tmp_path / "vae")
    assert grown == ModelConfig.tiny()
