"""The autoencoder's objective: what joins when, and who learns from what."""

import dataclasses

import pytest
import torch

from gamegen.models.model import Model, ModelConfig
from gamegen.training.discriminator import DiscriminatorConfig
from gamegen.training.stages.vae import VAELossConfig
from tests.training.samples import stage

LOSS = VAELossConfig(crop=32, perceptual_frames=2, discriminator=DiscriminatorConfig.tiny())


def objective(**changes):
    torch.manual_seed(0)
    config = dataclasses.replace(LOSS, **changes)
    return stage("vae", vae_loss=config).objective(Model(ModelConfig.tiny()))


def video() -> torch.Tensor:
    return torch.rand(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def gradients(training, progress: float) -> dict[str, float]:
    training.loss(video(), torch.Generator().manual_seed(2), progress)[0].backward()
    parts = {**training.vae._modules, "discriminator": training.discriminator}
    return {
        name: sum(p.grad.abs().sum().item() for p in part.parameters() if p.grad is not None)
        for name, part in parts.items()
    }


def test_the_discriminator_joins_late_in_the_run():
    assert gradients(objective(), 0.0)["discriminator"] == 0
    late = gradients(objective(), 0.9)
    assert late["discriminator"] > 0 and late["decoder"] > 0


def test_the_streaming_decoder_moves_no_encoder():
    """Its losses alone: latents are what the whole decoder needs."""
    training = objective(kl_weight=0.0)
    encode = training.vae.encode_moments(video())[0]
    training.vae.decode_streaming(encode.detach()).mean().backward()
    assert all(p.grad is None for p in training.vae.encoder.parameters())


def test_distillation_pulls_the_streaming_decoder_to_the_whole_one():
    metrics = objective().loss(video(), torch.Generator().manual_seed(2), 0.0)[1]
    assert metrics["distilled"] > 0
    plain, pulled = (
        objective(distillation_weight=w).loss(video(), torch.Generator().manual_seed(2), 0.0)[0]
        for w in (0.0, 2.0)
    )
    assert (pulled - plain).item() == pytest.approx(2 * metrics["distilled"], rel=1e-3)


def test_perceptual_distance_counts_for_both_decoders():
    metrics = objective().loss(video(), torch.Generator().manual_seed(2), 0.0)[1]
    assert metrics["whole_perceptual"] > 0 and metrics["streaming_perceptual"] > 0
    without = objective(perceptual_weight=0.0).loss(video(), torch.Generator().manual_seed(2), 0.0)[0]
    with_it = objective(perceptual_weight=1.0).loss(video(), torch.Generator().manual_seed(2), 0.0)[0]
    expected = metrics["whole_perceptual"] + metrics["streaming_perceptual"]
    assert (with_it - without).item() == pytest.approx(expected, rel=1e-3)
