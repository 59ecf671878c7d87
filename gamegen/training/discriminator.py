"""Discriminator of frames, which keeps decoders from averaging texture away."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Channels after each convolution of stride 2."""

    channels: tuple[int, ...] = (32, 64, 128)

    @classmethod
    def tiny(cls) -> DiscriminatorConfig:
        """For tests."""
        return cls((8, 8))


class PatchDiscriminator(nn.Module):
    """Scores patches of neighbouring frames (PatchGAN: Isola et al. 2017, section 3.2.2).

    It sees each frame with the one before it, so that flicker gives a fake away as well as blur does.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = (6, *config.channels)
        self.layers = nn.ModuleList(
            nn.Sequential(
                # Without norms: they would blow up what little there is in a dark or flat crop, and contrast is
                # part of what tells texture from blur.
                nn.Conv2d(a, b, 4, stride=2, padding=1),
                nn.LeakyReLU(0.2),
            )
            for a, b in itertools.pairwise(widths)
        )
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, video_BFCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores `(B * (F - 1), 1, h, w)`, positive for real, and the features of every layer."""
        pairs = torch.cat([video_BFCHW[:, 1:], video_BFCHW[:, :-1]], 2)
        x = pairs.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return self.score(x), features


def held_scores(critic: nn.Module, *inputs: Tensor) -> Any:
    """Scores of a discriminator whose weights get no gradient, for the generator's loss."""
    held = {name: weight.detach() for name, weight in critic.named_parameters()}
    return functional_call(critic, held, inputs)


def hinge_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """What the discriminator minimises (Lim and Ye 2017)."""
    return F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()


def feature_distance(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Mean L1 between features, layer by layer (Wang et al. 2018, "pix2pixHD", section 3.2)."""
    distances = [(a - b.detach()).abs().mean() for a, b in zip(fake, real, strict=True)]
    return torch.stack(distances).mean()
