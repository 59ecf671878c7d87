"""Decoder-only fine-tuning: resumes to the same bits, touches decoders alone, ships no discriminator."""

import dataclasses

import numpy as np
import pytest
import torch

from gamegen.models.checkpoint import load_checkpoint, save_checkpoint
from gamegen.models.folding import unfold_patches
from gamegen.models.model import Model, ModelConfig
from gamegen.training.discriminator import DiscriminatorConfig, PatchDiscriminator, hinge_loss
from gamegen.training.feed import Feed
from gamegen.training.loop import Run, Trainer
from gamegen.training.optimisers import OptimiserConfig
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.decoder import DecoderLossConfig, DecoderStage, hold_windows, texture_distance
from gamegen.training.stages.streaming import consistent
from gamegen.training.stages.vae import VAEStage
from gamegen.training.window_plan import WindowPlan, index_clips
from tests.engine.test_world import random_model
from tests.training.samples import curated_folder

STAGE = DecoderStage(
    steps=4,
    batch_size=2,
    buckets=(TrainingBucket("32x32", 8),),
    save_every=2,
    log_every=1,
    optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=1, decay_fraction=0.0),
    decoder_loss=DecoderLossConfig(crop=32, discriminator=DiscriminatorConfig.tiny()),
)


def checkerboard(seed: int) -> np.ndarray:
    """Frames with texture, uint8 `(16, 32, 32, 3)`."""
    rng = np.random.default_rng(seed)
    tile = rng.integers(0, 255, (8, 8, 3), np.uint8)
    return np.stack([np.roll(np.tile(tile, (4, 4, 1)), i, 1) for i in range(16)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return curated_folder(tmp_path_factory.mktemp("curated"), [checkerboard(seed) for seed in range(3)])


def trainer(folder, data, config: DecoderStage = STAGE) -> Trainer:
    torch.manual_seed(0)
    objective = config.objective(Model(ModelConfig.tiny()))
    dataset = config.windows(ModelConfig.tiny())
    feed = Feed(WindowPlan(config, index_clips(data, "train", dataset.length_column)), dataset)
    return Trainer(objective, config, Run(output=folder, show_progress=False), feed)


def test_resumed_run_equals_uninterrupted_run(data, tmp_path):
    whole = trainer(tmp_path / "whole", data)
    whole.train()
    first = trainer(tmp_path / "parts", data, dataclasses.replace(STAGE, steps=2))
    first.train()
    parts = trainer(tmp_path / "parts", data)
    parts.train()
    assert any(name.startswith("discriminator.") for name in whole.averages)
    for name, weight in whole.averages.items():
        assert torch.equal(weight, parts.averages[name]), name


def test_only_decoders_change_and_only_the_model_ships(data, tmp_path):
    run = trainer(tmp_path, data)
    before = {name: tensor.clone() for name, tensor in run.objective.model.state_dict().items()}
    run.train()
    after = load_checkpoint(tmp_path, "cpu").model.state_dict()
    assert after.keys() == before.keys()
    changed = {
        name.rsplit(".", 2)[0].split(".")[1] for name in before if not torch.equal(before[name], after[name])
    }
    assert changed == {"decoder", "streaming"}


def test_a_decoder_that_sees_a_reference_goes_on_inverting_its_encoder(data, tmp_path):
    """Its linear path is frozen, and frozen weights do not decay."""
    torch.manual_seed(0)
    model = random_model(moves=True)
    model.load_state_dict(consistent(model.state_dict()), strict=False)
    began = {name: weight.clone() for name, weight in model.vae.state_dict().items()}
    config = dataclasses.replace(STAGE, optimiser=OptimiserConfig(weight_decay=10.0, warmup_steps=1))
    windows = config.windows(model.config)
    feed = Feed(WindowPlan(config, index_clips(data, "train", windows.length_column)), windows)
    Trainer(config.objective(model), config, Run(output=tmp_path, show_progress=False), feed).train()
    vae, latent = model.vae, torch.randn(1, model.config.vae.latent_channels, 4, 4)
    assert not torch.equal(vae.streaming.stem[0].weight, began["streaming.stem.0.weight"])
    with torch.no_grad():
        shown = unfold_patches(vae.streaming.patch(latent))
        torch.testing.assert_close(vae.encoder(shown, 1)[0], latent, rtol=1e-3, atol=1e-3)


def test_an_autoencoder_whose_decoder_sees_a_reference_is_not_trained_on(data, tmp_path):
    model = random_model(moves=True)
    save_checkpoint(tmp_path, model.config, model.state_dict(), {"licence": "CC0-1.0"})
    with pytest.raises(ValueError, match="inverts its encoder"):
        VAEStage().start(tmp_path, data)


def test_the_adversarial_score_moves_decoders_and_not_the_discriminator():
    video = torch.rand(1, 8, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def gradients(weight: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        torch.manual_seed(0)
        loss = dataclasses.replace(STAGE.decoder_loss, adversarial_weight=weight, feature_weight=weight)
        objective = dataclasses.replace(STAGE, decoder_loss=loss).objective(Model(ModelConfig.tiny()))
        objective.loss(video, torch.Generator().manual_seed(2), 0.0)[0].backward()
        return (
            [p.grad for p in objective.discriminator.parameters()],
            [p.grad for p in objective.vae.decoder.parameters()],
        )

    (critic, decoder), (critic_without, decoder_without) = gradients(1.0), gradients(0.0)
    # Its own hinge loss moves the discriminator, the score nothing in it.
    for gradient, without in zip(critic, critic_without, strict=True):
        torch.testing.assert_close(gradient, without)
    assert any(not torch.allclose(g, w) for g, w in zip(decoder, decoder_without, strict=True))


def test_held_windows_repeat_a_latent_and_show_its_last_frame():
    latent = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(8, 3, 4, 4, 4)
    video = torch.arange(12.0).view(1, 12, 1, 1, 1).expand(8, 12, 3, 32, 32)

    def hold(share: float) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return hold_windows(latent, video, share=share, noise_std=0.0, generator=generator)

    held, shown = hold(1.0)
    windows = {
        tuple(z) + tuple(f)
        for z, f in zip(held[..., 0, 0, 0].tolist(), shown[..., 0, 0, 0].tolist(), strict=True)
    }
    assert windows == {
        (0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3),
        (0, 1, 1, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7),
    }
    held, shown = hold(0.0)
    assert torch.equal(held, latent) and torch.equal(shown, video)


def test_texture_in_another_place_is_nearer_than_blur():
    torch.manual_seed(0)
    truth = torch.rand(1, 4, 3, 32, 32) * 2 - 1
    elsewhere = truth.roll(5, -1)
    blurred = torch.nn.functional.avg_pool2d(truth.flatten(0, 1), 5, 1, 2).view_as(truth)
    assert (elsewhere - truth).abs().mean() > (blurred - truth).abs().mean()
    assert texture_distance(elsewhere, truth) < 0.2 * texture_distance(blurred, truth)
    assert texture_distance(truth, truth) == 0


def test_texture_of_flat_pictures_can_be_differentiated():
    flat = torch.zeros(1, 4, 3, 32, 32, requires_grad=True)
    texture_distance(flat, torch.rand(1, 4, 3, 32, 32)).backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


def test_a_discriminator_tells_texture_from_blur():
    torch.manual_seed(0)
    critic = PatchDiscriminator(DiscriminatorConfig.tiny())
    sharp = torch.rand(4, 4, 3, 32, 32) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(sharp.flatten(0, 1), 5, 1, 2).view_as(sharp)
    optimiser = torch.optim.Adam(critic.parameters(), 3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        hinge_loss(critic(sharp)[0], critic(blurred)[0]).backward()
        optimiser.step()
    assert critic(sharp)[0].mean() > critic(blurred)[0].mean() + 1
