"""Training the autoencoder: what a latent must hold for its picture to look like the one it came from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gamegen.models.checkpoint import Model
from gamegen.models.image_features import perceptual_distance
from gamegen.training.config import VAELossConfig
from gamegen.training.discriminator import PatchDiscriminator, held_scores, hinge_loss
from gamegen.training.objectives import Metrics, Objective, decoding_sheet, psnr_db, reconstruction_loss


class VAEObjective(Objective):
    """Reconstruction + KL for the autoencoder, features of a network that knows photographs, and late in the run a
    discriminator; the streaming decoder learns on the same latents, detached, from the truth and from the other."""

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
        """How false the discriminator finds the videos, and what it has to learn itself."""
        of_real = self.discriminator(real)[0]
        judging = torch.stack([hinge_loss(of_real, self.discriminator(v.detach())[0]) for v in videos])
        return -torch.stack(
            [held_scores(self.discriminator, v)[0].mean() for v in videos]
        ).sum(), judging.sum()

    @torch.inference_mode()
    def sheet(self, batch: Tensor) -> np.ndarray:
        return decoding_sheet(self.vae, batch)
