"""The `vae` stage: autoencoder and streaming decoder on pixels, with a perceptual and an adversarial loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from gamegen.models.configs import named_config
from gamegen.models.image_features import perceptual_distance
from gamegen.models.model import Model, ModelConfig
from gamegen.models.sampling import SamplingConfig
from gamegen.training.discriminator import DiscriminatorConfig, PatchDiscriminator, held_scores, hinge_loss
from gamegen.training.flops import (
    FORWARD,
    FORWARD_AND_BACKWARD,
    FORWARD_AND_INPUT_GRADIENT,
    BatchCost,
    autoencoder_flops,
    image_feature_flops,
    pixel_batch_cost,
)
from gamegen.training.objectives.objective import Metrics, Objective
from gamegen.training.objectives.reconstruction import decoding_sheet, psnr_db, reconstruction_loss
from gamegen.training.pixel_windows import PixelWindows
from gamegen.training.stages.world_model import WorldModelStage


@dataclass(frozen=True, kw_only=True)
class VAELossConfig:
    """Weights of the autoencoder's losses.

    Reconstruction is L1 plus `gradient_weight` times L1 of image gradients; KL keeps latents near unit size.
    `perceptual_weight` times the distance of EfficientNet features of `perceptual_frames` frames a step is added and,
    from `adversarial_start` of the run on, `adversarial_weight` times a discriminator's score. The streaming decoder
    learns the same and, `distillation_weight` times, what the whole decoder makes of the latents.
    """

    gradient_weight: float = 0.25
    kl_weight: float = 3e-4
    perceptual_weight: float = 0.05
    perceptual_frames: int = 6
    adversarial_weight: float = 0.02
    adversarial_start: float = 0.6
    distillation_weight: float = 0.5
    crop: int = 96
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


@dataclass(frozen=True, kw_only=True)
class VAEStage(WorldModelStage):
    """Trains an autoencoder, from nothing or from another."""

    stage: Literal["vae"] = "vae"
    shards: ClassVar[Literal["curated", "encoded"]] = "curated"
    vae_loss: VAELossConfig = field(default_factory=VAELossConfig)

    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        if init is not None:
            config, weights = self.load_init(init)
            if config.vae.streaming_reference:
                raise ValueError(
                    f"the streaming decoder of {init} sees the frame shown last and inverts its encoder, which this "
                    "stage would change: train another autoencoder (without --init), and streaming after it"
                )
            return config, weights
        # How a finished model is sampled is for the turbo stage to say.
        sizes = named_config(self.model)
        return replace(sizes, foundation=None, instructnet=None, sampling=SamplingConfig()), {}

    def windows(self, model: ModelConfig) -> PixelWindows:
        return PixelWindows(self.vae_loss.crop)

    def objective(self, model: Model) -> VAEObjective:
        return VAEObjective(model, self.vae_loss)

    def initialise(self, objective: Objective, example: Callable[[int], Tensor], is_new: bool) -> None:
        if is_new:
            cast(VAEObjective, objective).vae.initialise_from_patches(example(8))

    def batch_cost(self, model: ModelConfig, batch: Tensor) -> BatchCost:
        vae = autoencoder_flops(model, batch)
        B, height, width = len(batch), *batch.shape[-2:]
        frames = 2 * self.vae_loss.perceptual_frames * (FORWARD_AND_INPUT_GRADIENT + FORWARD)
        perceptual = frames * image_feature_flops(height, width) / B
        return pixel_batch_cost(
            batch, FORWARD_AND_BACKWARD * (vae.encode + vae.decode + vae.stream) + perceptual
        )


class VAEObjective(Objective):
    """Reconstruction, KL, perceptual distance and, late in the run, a discriminator's score.

    The streaming decoder learns on the same latents, detached, from the truth and from the whole decoder.
    """

    model: Model

    def __init__(self, model: Model, config: VAELossConfig) -> None:
        self.model, self.vae, self.config = model, model.vae, config
        self.discriminator = PatchDiscriminator(config.discriminator).to(model.device)

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"vae": self.vae, "discriminator": self.discriminator}

    def loss(self, batch: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        mean, log_variance = self.vae.encode_moments(batch)
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        latent = mean + noise * (0.5 * log_variance).exp()
        whole = self.vae.decode(latent).float()
        streamed = self.vae.decode_streaming(latent.detach()).float()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        distilled = (streamed - whole.detach()).abs().mean()
        loss = self.config.kl_weight * kl + self.config.distillation_weight * distilled
        metrics: Metrics = {"kl": kl.item(), "latent_std": mean.std().item(), "distilled": distilled.item()}
        frames = torch.randint(batch.shape[:2].numel(), (self.config.perceptual_frames,), generator=generator)
        for name, video in {"whole": whole, "streaming": streamed}.items():
            picked, target = (v.flatten(0, 1)[frames.to(v.device)] for v in (video, batch))
            perceptual = perceptual_distance(picked, target)
            loss = loss + reconstruction_loss(video, batch, self.config.gradient_weight)
            loss = loss + self.config.perceptual_weight * perceptual
            metrics |= {f"{name}_psnr_db": psnr_db(video, batch), f"{name}_perceptual": perceptual.item()}
        if progress >= self.config.adversarial_start:
            adversarial, judging = self._judged(batch, [whole, streamed])
            loss = loss + self.config.adversarial_weight * adversarial + judging
            metrics["discriminator"] = judging.item()
        return loss, metrics

    def _judged(self, real: Tensor, videos: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The adversarial loss of the videos, and the discriminator's own hinge loss."""
        of_real = self.discriminator(real)[0]
        judging = torch.stack([hinge_loss(of_real, self.discriminator(v.detach())[0]) for v in videos])
        return -torch.stack(
            [held_scores(self.discriminator, v)[0].mean() for v in videos]
        ).sum(), judging.sum()

    @torch.inference_mode()
    def sheet(self, batch: Tensor) -> np.ndarray:
        return decoding_sheet(self.vae, batch)
