"""The `decoder` stage: fine-tunes the decoders alone, for texture and for calm over noisy latents.

A reconstruction loss averages texture away. The latents stay as they are, so nothing else of a model needs training
again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gamegen.constants import TEMPORAL_FACTOR
from gamegen.models.model import Model, ModelConfig
from gamegen.training.discriminator import (
    DiscriminatorConfig,
    PatchDiscriminator,
    feature_distance,
    held_scores,
    hinge_loss,
)
from gamegen.training.flops import (
    FORWARD,
    FORWARD_AND_BACKWARD,
    FORWARD_AND_INPUT_GRADIENT,
    BatchCost,
    autoencoder_flops,
    discriminator_flops,
    pixel_batch_cost,
)
from gamegen.training.objectives.objective import Metrics, Objective
from gamegen.training.objectives.reconstruction import (
    decoding_sheet,
    gradient_l1,
    psnr_db,
    reconstruction_loss,
)
from gamegen.training.pixel_windows import PixelWindows
from gamegen.training.stages.world_model import WorldModelStage


@dataclass(frozen=True, kw_only=True)
class DecoderLossConfig:
    """Weights of the decoders' losses, and the noise of their latents.

    Decoders learn on latents of a frozen encoder with noise up to `latent_noise` (in standard deviations of a
    latent): in play, latents are never exact.

    To L1 and its gradients come, each times its weight, the L1 of changes from frame to frame (`motion_weight`), the
    distance of local texture (`texture_weight`), the discriminator's score (`adversarial_weight`) and the distance
    of its features (`feature_weight`). In `held_windows` of the windows a latent is repeated to the end, give or take
    `held_noise`, and the truth is its last frame: a world that stands still must not play a latent's motion again.
    """

    gradient_weight: float = 0.25
    motion_weight: float = 0.5
    texture_weight: float = 2.0
    latent_noise: float = 0.2
    held_windows: float = 0.4
    held_noise: float = 0.05
    adversarial_weight: float = 0.02
    feature_weight: float = 0.1
    crop: int = 96
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


@dataclass(frozen=True, kw_only=True)
class DecoderStage(WorldModelStage):
    """Trains the decoders of a model, and nothing else of it."""

    stage: Literal["decoder"] = "decoder"
    shards: ClassVar[Literal["curated", "encoded"]] = "curated"
    decoder_loss: DecoderLossConfig = field(default_factory=DecoderLossConfig)

    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        return self.load_init(init)

    def windows(self, model: ModelConfig) -> PixelWindows:
        return PixelWindows(self.decoder_loss.crop)

    def objective(self, model: Model) -> DecoderObjective:
        return DecoderObjective(model, self.decoder_loss)

    def batch_cost(self, model: ModelConfig, batch: Tensor) -> BatchCost:
        vae = autoencoder_flops(model, batch)
        num_frames, height, width = batch.shape[1], *batch.shape[-2:]
        # The discriminator learns from the truth and from both decoders, and passes its score on to each of them.
        adversarial = (3 * FORWARD_AND_BACKWARD + 2 * FORWARD_AND_INPUT_GRADIENT) * discriminator_flops(
            self.decoder_loss.discriminator, num_frames, height, width
        )
        trained = FORWARD_AND_BACKWARD * (vae.decode + vae.stream)
        return pixel_batch_cost(batch, FORWARD * vae.encode + trained + adversarial)


class DecoderObjective(Objective):
    """Reconstruction with a discriminator for both decoders; all three learn in the same step."""

    model: Model

    def __init__(self, model: Model, config: DecoderLossConfig) -> None:
        self.model, self.vae, self.config = model, model.vae, config
        self.vae.encoder.requires_grad_(False)
        # Where it sees a reference, the streaming decoder's linear path inverts the encoder.
        self.vae.streaming.patch.requires_grad_(not self.vae.streaming.sees_reference)
        self.discriminator = PatchDiscriminator(config.discriminator).to(model.device)

    def trained_modules(self) -> dict[str, nn.Module]:
        return {
            "vae.decoder": self.vae.decoder,
            "vae.streaming": self.vae.streaming,
            "discriminator": self.discriminator,
        }

    def loss(self, batch: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        latent, batch = hold_windows(
            self._noisy_latent(batch, generator),
            batch,
            share=self.config.held_windows,
            noise_std=self.config.held_noise * self.model.std_C,
            generator=generator,
        )
        real = self.discriminator(batch)
        videos = {
            "whole": self.vae.decode(latent).float(),
            "streaming": self.vae.decode_streaming(latent).float(),
        }
        metrics: Metrics = {}
        loss = torch.zeros((), device=batch.device)
        for name, video in videos.items():
            judging = hinge_loss(real[0], self.discriminator(video.detach())[0])
            loss = loss + picture_loss(video, batch, self.config)
            loss = loss + critic_loss(video, self.config, self.discriminator, real[1]) + judging
            metrics |= {
                f"{name}_psnr_db": psnr_db(video, batch),
                f"{name}_detail": detail(video) / max(detail(batch), 1e-3),
                f"{name}_change": change(video) / max(change(batch), 1e-3),
                f"{name}_discriminator": judging.item(),
            }
        return loss, metrics

    def _noisy_latent(self, video: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            latent = self.vae.encode(video)
        amount = torch.rand((len(latent), 1, 1, 1, 1), generator=generator).to(latent.device)
        noise = torch.randn(latent.shape, generator=generator).to(latent.device)
        return latent + self.config.latent_noise * amount * self.model.std_C * noise

    @torch.inference_mode()
    def sheet(self, batch: Tensor) -> np.ndarray:
        return decoding_sheet(self.vae, batch)


def picture_loss(video: Tensor, target: Tensor, config: DecoderLossConfig) -> Tensor:
    """The part of a decoder's loss that compares its frames `(B, T, 3, H, W)` with the truth."""
    motion = (video.diff(dim=1) - target.diff(dim=1)).abs().mean()
    return (
        reconstruction_loss(video, target, config.gradient_weight)
        + config.motion_weight * motion
        + config.texture_weight * texture_distance(video, target)
    )


def critic_loss(
    video: Tensor, config: DecoderLossConfig, critic: PatchDiscriminator, real_features: list[Tensor]
) -> Tensor:
    """The part of a decoder's loss that a critic gives, which found `real_features` in the truth."""
    score, features = held_scores(critic, video)
    return config.feature_weight * feature_distance(features, real_features) - (
        config.adversarial_weight * score.mean()
    )


def hold_windows(
    latent: Tensor, video: Tensor, *, share: float, noise_std: Tensor | float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Latents `(B, T, C, h, w)` and video of which a `share` of the windows stands still from a random latent on.

    There the latent is repeated with noise of `noise_std` (broadcast over latents), and the video shows its last
    frame.
    """
    B, T = latent.shape[:2]
    chosen = torch.rand(B, generator=generator) < share
    start = torch.where(chosen, torch.randint(1, max(T, 2), (B,), generator=generator), T)
    source = torch.minimum(torch.arange(T), start[:, None] - 1).to(latent.device)
    rows = torch.arange(B, device=latent.device)[:, None]
    noise = torch.randn(latent.shape, generator=generator).to(latent.device)
    is_held = (torch.arange(T) >= start[:, None]).to(latent.device)[..., None, None, None]
    latent = latent[rows, source] + noise_std * noise * is_held
    last_frame = (TEMPORAL_FACTOR * start - 1)[:, None]
    frame = torch.minimum(torch.arange(TEMPORAL_FACTOR * T), last_frame).to(video.device)
    return latent, video[rows, frame]


def texture_distance(video_BFCHW: Tensor, target_BFCHW: Tensor) -> Tensor:
    """Mean L1 between the strengths of image gradients in patches of 8x8 pixels, at full and half resolution.

    A latent does not tell where each blade of grass is, only that there is grass. Blur has no gradients, whereas
    texture in another place has those of the truth (in the manner of the gradient variance loss: Abrahamyan et
    al. 2022, section 3).
    """
    distances = []
    grey = [video.mean(2).flatten(0, 1)[:, None] for video in (video_BFCHW, target_BFCHW)]
    for _ in range(2):
        strengths = [_gradient_strength(image) for image in grey]
        distances += [(a - b).abs().mean() for a, b in zip(*strengths, strict=True)]
        grey = [F.avg_pool2d(image, 2) for image in grey]
    return torch.stack(distances).mean()


def _gradient_strength(image_N1HW: Tensor) -> list[Tensor]:
    """Root mean square of the horizontal and of the vertical gradient in each patch of 8x8."""
    return [
        (F.avg_pool2d(image_N1HW.diff(dim=dim).square(), 8, ceil_mode=True) + 1e-6).sqrt() for dim in (-1, -2)
    ]


def detail(video: Tensor) -> float:
    """Mean absolute gradient; its ratio to the truth's is below 1 for blur and above 1 for noise."""
    return gradient_l1(video.detach().mean(-3)).item()


def change(video: Tensor) -> float:
    """Mean absolute change from frame to frame; more than the truth's is flicker."""
    return video.detach().diff(dim=1).abs().mean().item()
