"""Discriminator of latents, for a model's own rollouts.

Shape suffixes: N chunks of a batch, C channels, E width of the condition.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LatentDiscriminatorConfig:
    """Channels at the latents' resolution, at half and at a quarter of it, and the width of the condition."""

    channels: tuple[int, ...] = (64, 96, 128)
    condition_width: int = 128

    @classmethod
    def tiny(cls) -> LatentDiscriminatorConfig:
        """For tests."""
        return cls((8, 8), 8)


class _Residual(nn.Module):
    """Two 3x3 convolutions, scaled and shifted by the condition; without norms, which hide contrast."""

    def __init__(self, channels: int, condition_width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(condition_width, 2 * channels)

    def forward(self, x_NCHW: Tensor, condition_NE: Tensor) -> Tensor:
        scale, shift = self.film(condition_NE)[:, :, None, None].chunk(2, 1)
        h = self.conv_in(F.leaky_relu(x_NCHW, 0.2)) * (1 + scale) + shift
        return x_NCHW + self.conv_out(F.leaky_relu(h, 0.2))


class LatentDiscriminator(nn.Module):
    """Scores a chunk's latents beside those of the chunk before, on several scales.

    It knows what was asked for: the chunk's operations, the scene's words and the instruction's.
    """

    def __init__(self, config: LatentDiscriminatorConfig, latent_channels: int, condition_size: int) -> None:
        super().__init__()
        width = config.condition_width
        self.condition_in = nn.Sequential(
            nn.Linear(condition_size, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.stem = nn.Conv2d(2 * latent_channels, config.channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(_Residual(channels, width) for channels in config.channels)
        self.scores = nn.ModuleList(nn.Conv2d(channels, 1, 1) for channels in config.channels)
        pairs = zip(config.channels[:-1], config.channels[1:], strict=True)
        self.halves = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairs)

    def forward(self, pairs_NCHW: Tensor, condition_NI: Tensor) -> list[Tensor]:
        """Scores `(N, 1, h, w)` of every scale, higher for real.

        `pairs` are latents and those before them, `(N, 2C, H, W)`.
        """
        condition = self.condition_in(condition_NI)
        x = self.stem(pairs_NCHW.contiguous(memory_format=torch.channels_last))
        scores = []
        for number, (block, score) in enumerate(zip(self.blocks, self.scores, strict=True)):
            x = block(x if number == 0 else self.halves[number - 1](x), condition)
            scores.append(score(F.leaky_relu(x, 0.2)))
        return scores


def pairing_loss(better: list[Tensor], worse: list[Tensor], weight: Tensor | None = None) -> Tensor:
    """Softplus of how far `better` scores fall short of `worse` ones, place by place and scale by scale.

    Places of the finest scale count by their `weight` `(N, 1, h, w)`, equally without one.

    The relativistic loss of Jolicoeur-Martineau 2019, in which every fake is compared with the truth of the same
    moment ("The GAN is dead": Huang et al. 2024, section 2).
    """
    losses = []
    for a, b in zip(better, worse, strict=True):
        shortfall = F.softplus(b - a)
        if weight is not None:
            shortfall = shortfall * F.adaptive_avg_pool2d(weight / weight.mean(), (a.shape[-2], a.shape[-1]))
        losses.append(shortfall.mean())
    return torch.stack(losses).mean()


def roughness(scores: list[Tensor], disturbed: list[Tensor], noise_std: float) -> Tensor:
    """Mean squared change of scores under noise of `noise_std` on their latents, over its variance.

    It stands for the squared norm of their gradient ("approximated R1": Lin et al. 2025, "Diffusion Adversarial
    Post-Training for One-Step Video Generation").
    """
    changes = [(a - b).square().mean() for a, b in zip(scores, disturbed, strict=True)]
    return torch.stack(changes).mean() / noise_std**2
