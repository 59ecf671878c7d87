"""The refiner of MSDiT: convolutions after its layers.

Shape suffixes as in `msdit.py`.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class LatentRefiner(nn.Module):
    """Convolutions at the resolution of latents, which refine what the layers draw for each token.

    A token stands for 2x2 latents, and what it draws does not join what its neighbours draw. Convolutions see across
    the seams, and pass fine structure of the inputs on without a token's bottleneck (U-ViT ends in a convolution for
    that reason: Bao et al. 2023, "All are Worth Words", section 3.1). The change starts at zero.
    """

    def __init__(
        self, width: int, channels: int, *, num_blocks: int, num_planes: int, latent_channels: int, patch: int
    ) -> None:
        super().__init__()
        self.patch = patch
        self.tokens_in = nn.Linear(width, patch**2 * channels)
        self.planes_in = nn.Conv2d(num_planes, channels, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * channels * num_blocks)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(num_blocks)
        )
        self.out = nn.Conv2d(channels, latent_channels + 1, 3, padding=1)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, x_BTSD: Tensor, planes_BTCHW: Tensor, condition_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of the output `(B, T, C, H, W)` and of the keep gate `(B, T, H, W)`.

        `x` are the layers' tokens, `planes` the inputs that the tokens were made of.
        """
        B, _, _, H, W = planes_BTCHW.shape
        tokens = rearrange(
            self.tokens_in(x_BTSD),
            "b t (y x) (c p q) -> (b t) c (y p) (x q)",
            y=H // self.patch,
            x=W // self.patch,
            p=self.patch,
            q=self.patch,
        )
        h = self.planes_in(planes_BTCHW.flatten(0, 1).to(tokens.dtype)) + tokens
        modulation = rearrange(
            self.modulation(condition_BTD), "b t (m c) -> (b t) m c 1 1", m=2 * len(self.blocks)
        )
        for number, block in enumerate(self.blocks):
            scale, shift = modulation[:, 2 * number], modulation[:, 2 * number + 1]
            normed = F.layer_norm(h.movedim(1, -1), h.shape[1:2]).movedim(-1, 1)
            h = h + block(normed * (1 + scale) + shift)
        change = rearrange(self.out(F.silu(h)), "(b t) c h w -> b t c h w", b=B)
        return change[:, :, :-1], change[:, :, -1]
