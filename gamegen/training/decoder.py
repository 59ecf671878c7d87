"""Decoder-only fine-tuning: texture that a reconstruction loss averages away, and calm over noisy latents.

The latents stay what they are, so nothing else of a model needs training again.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gamegen.models.checkpoint import Model
from gamegen.models.vae import TEMPORAL_FACTOR
from gamegen.training.config import DecoderLossConfig
from gamegen.training.discriminator import PatchDiscriminator, feature_distance, held_scores, hinge_loss
from gamegen.training.objectives import Metrics, Objective, decoding_sheet, psnr_db, reconstruction_loss


class DecoderObjective(Objective):
    """Reconstruction with a discriminator for both decoders; all of them learn in the same step."""

    model: Model

    def __init__(self, model: Model, config: DecoderLossConfig) -> None:
        self.model, self.vae, self.config = model, model.vae, config
        self.vae.encoder.requires_grad_(False)
        self.discriminator = PatchDiscriminator(config.discriminator).to(model.device)

    def trained_modules(self) -> dict[str, nn.Module]:
        return {
            "vae.decoder": self.vae.decoder,
            "vae.streaming": self.vae.streaming,
            "discriminator": self.discriminator,
        }

    def loss(self, batch: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        latent, batch = self._held(self._noisy_latent(batch, generator), batch, generator)
        real = self.discriminator(batch)
        videos = {
            "whole": self.vae.decode(latent).float(),
            "streaming": self.vae.decode_streaming(latent).float(),
        }
        metrics: Metrics = {}
        loss = torch.zeros((), device=batch.device)
        for name, video in videos.items():
            judging = hinge_loss(real[0], self.discriminator(video.detach())[0])
            loss = loss + self._decoder_loss(video, batch, real[1]) + judging
            metrics |= {
                f"{name}_psnr_db": psnr_db(video, batch),
                f"{name}_detail": _detail(video) / max(_detail(batch), 1e-3),
                f"{name}_change": _change(video) / max(_change(batch), 1e-3),
                f"{name}_discriminator": judging.item(),
            }
        return loss, metrics

    def _noisy_latent(self, video: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            latent = self.vae.encode(video)
        amount = torch.rand((len(latent), 1, 1, 1, 1), generator=generator).to(latent.device)
        noise = torch.randn(latent.shape, generator=generator).to(latent.device)
        return latent + self.config.latent_noise * amount * self.model.std_C * noise

    def _held(self, latent: Tensor, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents and video; those of some windows stand still from a random latent on."""
        B, T = latent.shape[:2]
        chosen = torch.rand(B, generator=generator) < self.config.held_windows
        start = torch.where(chosen, torch.randint(1, max(T, 2), (B,), generator=generator), T)
        place = torch.minimum(torch.arange(T), start[:, None] - 1).to(latent.device)
        rows = torch.arange(B, device=latent.device)[:, None]
        noise = torch.randn(latent.shape, generator=generator).to(latent.device)
        is_held = (torch.arange(T) >= start[:, None]).to(latent.device)[..., None, None, None]
        latent = latent[rows, place] + self.config.held_noise * self.model.std_C * noise * is_held
        last_frame = (TEMPORAL_FACTOR * start - 1)[:, None]
        frame = torch.minimum(torch.arange(TEMPORAL_FACTOR * T), last_frame).to(video.device)
        return latent, video[rows, frame]

    def _decoder_loss(self, video: Tensor, target: Tensor, real_features: list[Tensor]) -> Tensor:
        score, features = held_scores(self.discriminator, video)
        motion = (video.diff(dim=1) - target.diff(dim=1)).abs().mean()
        return (
            reconstruction_loss(video, target, self.config.gradient_weight)
            + self.config.motion_weight * motion
            + self.config.texture_weight * texture_distance(video, target)
            - self.config.adversarial_weight * score.mean()
            + self.config.feature_weight * feature_distance(features, real_features)
        )

    @torch.inference_mode()
    def sheet(self, batch: Tensor) -> np.ndarray:
        return decoding_sheet(self.vae, batch)


def texture_distance(video_BFCHW: Tensor, target_BFCHW: Tensor) -> Tensor:
    """Mean L1 between how strong image gradients are in patches of 8x8 pixels, at full and half resolution.

    Where every blade of grass is, no latent knows; that there is grass it does. Blur has no gradients, whereas
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


def _detail(video: Tensor) -> float:
    """Mean absolute gradient: how it compares with that of the truth shows blur (below 1) and noise (above)."""
    grey = video.detach().mean(-3)
    return (grey.diff(dim=-1).abs().mean() + grey.diff(dim=-2).abs().mean()).item()


def _change(video: Tensor) -> float:
    """Mean absolute change from frame to frame: above that of the truth it is flicker."""
    return video.detach().diff(dim=1).abs().mean().item()
