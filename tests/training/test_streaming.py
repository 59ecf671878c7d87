"""The streaming stage: windows lie beside the operations that cause them, and moved frames give their detail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gamegen.models.checkpoint import load_checkpoint, save_checkpoint
from gamegen.models.folding import from_pixels, to_pixels, unfold_frames
from gamegen.models.model import Model, ModelConfig
from gamegen.models.motion import MotionConfig
from gamegen.models.motion_compensation import refer
from gamegen.training.discriminator import DiscriminatorConfig
from gamegen.training.feed import Feed
from gamegen.training.loop import Run, Trainer
from gamegen.training.motion_windows import MotionWindows
from gamegen.training.optimisers import OptimiserConfig
from gamegen.training.played_windows import PlayedBatch, PlayedWindows
from gamegen.training.run_stage import run_stage
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.streaming import StreamingLossConfig, StreamingStage
from gamegen.training.window_plan import ClipRow, Sample, WindowPlan, index_clips
from tests.engine.test_world import random_model
from tests.footage_samples import panning_frames
from tests.training.samples import curated_folder, keyed_row, panning_folder

STAGE = StreamingStage(
    steps=4,
    batch_size=2,
    buckets=(TrainingBucket("128x72", 12),),
    save_every=2,
    log_every=1,
    validation_batches=0,
    ema_decay=0.5,
    streaming_loss=StreamingLossConfig(discriminator=DiscriminatorConfig.tiny()),
    optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=1),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return panning_folder(tmp_path_factory.mktemp("curated"))


@pytest.fixture(scope="module")
def init(tmp_path_factory, data) -> Path:
    """A model with a motion network and a linear autoencoder of what the clips show, which sees no reference."""
    torch.manual_seed(0)
    tiny = ModelConfig.tiny()
    vae = dataclasses.replace(tiny.vae, linear_encoder=True)
    parts = {"vae": vae, "motion": MotionConfig.tiny(), "foundation": None, "instructnet": None}
    model = Model(dataclasses.replace(tiny, **parts, width=128, height=72))
    model.vae.initialise_from_patches(from_pixels(torch.from_numpy(panning_frames(24)))[None])
    folder = tmp_path_factory.mktemp("init")
    save_checkpoint(folder, model.config, model.state_dict(), {"licence": "CC0-1.0"})
    return folder


def trainer(folder: Path, data: Path, init: Path) -> Trainer:
    torch.manual_seed(0)
    model = STAGE.build_model(init, data, folder)
    windows = STAGE.windows(model.config)
    feed = Feed(WindowPlan(STAGE, index_clips(data, "train", windows.length_column)), windows)
    return Trainer(STAGE.objective(model), STAGE, Run(output=folder, show_progress=False), feed)


def test_each_chunk_has_the_operations_that_a_window_of_motion_has():
    keys = [["w", "d"] if i % 2 else ["a"] for i in range(32)]
    row = keyed_row(panning_frames(32), keys, [float(i) for i in range(32)])
    windows, clip = PlayedWindows(), MotionWindows().prepare(row)
    cut = windows.prepare(row).window(5, 12)
    batch = windows.collate([cut])
    assert batch.num_chunks == 3 and batch.frames.shape == (1, 12, 3, 72, 128)
    for number in (1, 2):
        expected = clip.window(5 + 4 * number - 2)
        np.testing.assert_array_equal(batch.operations_of(number)[0], expected.operations)
        torch.testing.assert_close(batch.chunk(number)[0], from_pixels(torch.from_numpy(expected.frames[2:])))


def test_windows_depend_on_their_samples_alone_and_half_are_mirrored():
    row = keyed_row(panning_frames(32), [["d"]] * 32, [1.2] * 32)
    windows = PlayedWindows()
    clip = windows.prepare(row)
    samples = [Sample(ClipRow("any", 0, 0, 8), 0, (0, i)) for i in range(8)]
    cut = [windows.cut(clip, sample, 3) for sample in samples]
    np.testing.assert_array_equal(cut[2].frames, windows.cut(clip, samples[2], 3).frames)
    assert {float(np.sign(window.operations[-1, 7])) for window in cut} == {-1.0, 1.0}


def test_a_model_without_motion_is_refused(tiny_model, data, tmp_path):
    with pytest.raises(ValueError, match="no motion network"):
        run_stage(STAGE, data, Run(output=tmp_path, show_progress=False), str(tiny_model))


def test_a_decoder_is_consistent_with_the_encoder_from_the_start_and_stays_so(init, data, tmp_path):
    model = STAGE.build_model(init, data, tmp_path)
    run_stage(STAGE, data, Run(output=tmp_path / "run", show_progress=False), str(init))
    latents = torch.randn(2, 3, 4, 9, 16)
    for vae in (model.vae, load_checkpoint(tmp_path / "run", "cpu").model.vae):
        with torch.inference_mode():
            vae.streaming.deblocking.kernels[-1].bias.zero_()
            vae.streaming.deblocking.kernels[-1].weight.zero_()
            encoded, _ = vae.encoder(vae.streaming(*latents), 1)
        torch.testing.assert_close(encoded, latents[0], rtol=1e-3, atol=1e-3)


def test_resumed_run_equals_uninterrupted_run(data, init, tmp_path):
    trainer(tmp_path / "whole", data, init).train()
    first = trainer(tmp_path / "parts", data, init)
    for _ in first.steps():
        if first.step == 2:
            break
    first.finish_writing()
    trainer(tmp_path / "parts", data, init).train()
    whole, parts = (load_checkpoint(tmp_path / name, "cpu").model for name in ("whole", "parts"))
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_it_takes_detail_from_what_was_shown_and_leaves_the_rest_of_the_model_alone(init, tmp_path):
    """Of clips that stand still: an untrained motion network foresees no motion where no key is held."""
    still = [np.repeat(panning_frames(1, seed), 24, 0) for seed in range(4)]
    nothing = {"keys": [[]] * 24, "yaw_deg": [0.0] * 24}
    data = curated_folder(tmp_path / "curated", still, [nothing] * 4)
    optimiser = dataclasses.replace(STAGE.optimiser, learning_rate=4e-3)
    config = dataclasses.replace(STAGE, steps=25, save_every=25, ema_decay=0.8, optimiser=optimiser)
    run_stage(config, data, Run(output=tmp_path / "run", show_progress=False), str(init))
    found = load_checkpoint(tmp_path / "run", "cpu")
    assert found.card["stage"] == "streaming" and found.config.vae.streaming_reference
    before, after = load_checkpoint(init, "cpu").model.state_dict(), found.model.state_dict()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed and all(name.startswith("vae.streaming.") for name in changed)
    windows = PlayedWindows()
    clips = [windows.prepare(keyed_row(video, [[]] * 24, [0.0] * 24)) for video in still[:3]]
    batch = windows.collate([clip.window(4, 12) for clip in clips])
    objective = config.objective(found.model)
    with torch.no_grad():
        _, metrics = objective.loss(batch, torch.Generator().manual_seed(0), 0.0)
    assert metrics["psnr_db"] > metrics["plain_psnr_db"] + 0.5
    assert objective.sheet(batch).shape == (4 * 72, 3 * 128, 3)


def model_and_window() -> tuple[Model, PlayedBatch]:
    """A random model, and a window of six chunks in which one turns to the right."""
    torch.manual_seed(0)
    model = random_model(moves=True)
    windows = PlayedWindows()
    row = keyed_row(panning_frames(32)[:, :32, :32], [["d"]] * 32, [1.2] * 32)
    return model, windows.collate([windows.prepare(row).window(4, 24)])


def test_what_is_decoded_before_the_trained_chunks_counts_but_has_no_gradient():
    model, batch = model_and_window()
    gradients = []
    for first in (0, 8):
        loss = dataclasses.replace(
            STAGE.streaming_loss, trained_chunks=2, held_windows=0.0, carried_steps=0.0
        )
        objective = dataclasses.replace(STAGE, streaming_loss=loss).objective(model)
        frames = batch.frames.clone()
        # The trained chunks are the same, and what comes before them is not.
        frames[:, :16] = frames[:, first : first + 1]
        value, _ = objective.loss(
            PlayedBatch(frames, batch.operations), torch.Generator().manual_seed(0), 0.0
        )
        model.zero_grad(set_to_none=True)
        value.backward()
        gradients.append(model.vae.streaming.stem[0].weight.grad.clone())
    assert not torch.equal(*gradients) and all(gradient.any() for gradient in gradients)
    streaming, passes = model.vae.streaming, []
    hook = streaming.stem.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    objective.loss(batch, torch.Generator().manual_seed(0), 0.0)
    hook.remove()
    assert passes == [False] * 3 + [True] * 2


def test_in_carried_steps_the_decoder_goes_on_from_a_frame_that_was_only_moved():
    model, batch = model_and_window()
    loss = dataclasses.replace(
        STAGE.streaming_loss, trained_chunks=2, held_windows=0.0, latent_noise=0.0, carried_steps=1.0
    )
    objective = dataclasses.replace(STAGE, streaming_loss=loss).objective(model)
    with torch.no_grad():
        latent, inputs = objective._inputs(batch, torch.Generator().manual_seed(0))
        there = torch.ones(latent.shape[:2])
        decoded = objective._decode(latent, inputs, there, is_carried=True)
        shown = batch.chunk(0)[:, -2:]
        for number in range(1, 4):
            reference = refer(model, shown, inputs.operations_of(number))
            moved = unfold_frames(reference.warped, 1)
            torch.testing.assert_close(decoded[:, 4 * number - 4 : 4 * number], moved.float())
            shown = from_pixels(to_pixels(moved[:, -2:]))
        reference = refer(model, shown, inputs.operations_of(4))
        expected = model.vae.streaming(latent[:, 4], latent[:, 3], reference)
        torch.testing.assert_close(decoded[:, 12:16], unfold_frames(expected, 1).float())
    passes = []
    hook = model.vae.streaming.stem.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    objective.loss(batch, torch.Generator().manual_seed(0), 0.0)
    hook.remove()
    assert passes == [True] * 2


@pytest.mark.parametrize("moves", [False, True])
def test_guessed_latents_are_those_of_the_diffusion_model(moves):
    """Near the truth from little noise, the model's own from much, and the decoder alone learns from either."""
    torch.manual_seed(0)
    model = random_model(moves=True)
    if not moves:
        foundation = dataclasses.replace(model.config.foundation, motion_compensation=False)
        model = Model(dataclasses.replace(model.config, foundation=foundation))
    windows = PlayedWindows()
    rows = [keyed_row(panning_frames(24, seed)[:, :32, :32], [["d"]] * 24, [1.2] * 24) for seed in range(2)]
    batch = windows.collate([windows.prepare(row).window(4, 12) for row in rows])

    def videos(**settings) -> list[torch.Tensor]:
        loss = dataclasses.replace(STAGE.streaming_loss, latent_noise=0.0, held_windows=0.0, **settings)
        objective = dataclasses.replace(STAGE, streaming_loss=loss).objective(model)
        with torch.no_grad():
            latent, inputs = objective._inputs(batch, torch.Generator().manual_seed(0))
            guesses = objective._guesses(latent, torch.Generator().manual_seed(0))
            there = torch.ones(latent.shape[:2])
            return [objective._decode(latent, inputs, there, each) for each in (None, guesses)]

    exact, never = videos(guessed_windows=0.0)
    assert torch.equal(exact, never)
    exact, guessed = videos(guessed_windows=1.0, guess_levels=(0.999, 1.0))
    assert (guessed - exact).abs().mean() > 0.05
    objective = STAGE.objective(model)
    loss, _ = objective.loss(batch, torch.Generator().manual_seed(0), 0.0)
    loss.backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned and all(name.startswith("vae.streaming.") for name in learned)
