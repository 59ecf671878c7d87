"""Convolution blocks of the autoencoder. Shape suffixes as in `vae.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """GroupNorm, two 3x3 convolutions, the second starting at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        scale_initial_weights(self.conv_out, 0.0)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.conv_out(F.silu(self.conv_in(F.silu(self.norm(x_NCHW)))))


class CausalMix(nn.Module):
    """Adds a 1x1 projection of the previous latent frame's features; zero-initialised, zeros before the first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1)
        scale_initial_weights(self.project, 0.0)

    def forward(self, x_NCHW: Tensor, T: int, cache: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the mixed features and the new cache: the last frame's features `(B, C, H, W)`."""
        x_BTCHW = rearrange(x_NCHW, "(b t) c h w -> b t c h w", t=T)
        first = torch.zeros_like(x_BTCHW[:, :1]) if cache is None else cache[:, None]
        previous = rearrange(torch.cat([first, x_BTCHW[:, :-1]], 1), "b t c h w -> (b t) c h w")
        return x_NCHW + self.project(previous), x_BTCHW[:, -1]


def scale_initial_weights(layer: nn.Module, scale: float) -> None:
    """Scales the initial weights of a convolution or a linear layer by `scale` and sets its bias to zero."""
    assert isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None
    layer.weight.data.mul_(scale)
    layer.bias.data.zero_()
