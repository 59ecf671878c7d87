"""Streaming decoder: the small decoder of interactive play, which draws a chunk's first frame before the others.

Shape suffixes as in `vae.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gamegen.constants import SPATIAL_FACTOR, TEMPORAL_FACTOR
from gamegen.models.folding import unfold_patches
from gamegen.models.vae_layers import ResidualBlock, scale_initial_weights

HOLD_CHANGE = 0.15
"""Root-mean-square change of a latent (whose channels vary by about 1) below which a place stands still."""


class RemainingFrames(NamedTuple):
    """Inputs for a chunk's two middle frames, which are decoded last.

    Features `(N, 2c, h, w)` and patches `(N, 384, h, w)` of both frames, and the stillness `hold` `(N, 1, H, W)`.
    """

    features: Tensor
    patches: Tensor
    hold: Tensor


class StreamingDecoder(nn.Module):
    """Small decoder: 2-D convolutions on each frame, given the latent and the one before it.

    In the manner of TAEHV (tiny autoencoders for hosted video models): fast enough for two CPU cores.
    """

    def __init__(self, latent_channels: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        c0, c1, c2 = channels
        z = latent_channels
        self.stem = nn.Sequential(nn.Conv2d(2 * z, c0, 3, padding=1), ResidualBlock(c0), ResidualBlock(c0))
        self.to_frames = nn.Conv2d(c0, TEMPORAL_FACTOR * c1, 1)
        self.frame = nn.Sequential(
            ResidualBlock(c1),
            nn.Conv2d(c1, 4 * c1, 1),
            nn.PixelShuffle(2),
            ResidualBlock(c1),
            nn.Conv2d(c1, 4 * c2, 1),
            nn.PixelShuffle(2),
            ResidualBlock(c2),
            nn.SiLU(),
            nn.Conv2d(c2, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.patch = nn.Conv2d(z, 3 * TEMPORAL_FACTOR * SPATIAL_FACTOR**2, 1)
        scale_initial_weights(self.frame[-2], 0.1)

    def forward(self, latent_NCHW: Tensor, memory_NCHW: Tensor) -> Tensor:
        """Folded frames `(N, 12, H, W)` of latents, given the latents before them (zeros before the first)."""
        first, last, left = self.ends(latent_NCHW, memory_NCHW)
        return torch.cat([first, self.between(last, left), last], 1)

    def ends(self, latent_NCHW: Tensor, memory_NCHW: Tensor) -> tuple[Tensor, Tensor, RemainingFrames]:
        """The first and the last frame, `(N, 3, H, W)`, and the inputs of `between` for the other two.

        The first can be shown while those are decoded; where the world stands still, all frames equal the last.
        """
        features, patches = self._features(latent_NCHW, memory_NCHW)
        ends = self._decode(_at_ends(features), _at_ends(patches))
        first, last = ends.chunk(2, 1)
        hold = stillness(latent_NCHW, memory_NCHW)
        return (
            hold_still(first, last, hold),
            last,
            RemainingFrames(_between(features), _between(patches), hold),
        )

    def between(self, last_NCHW: Tensor, left: RemainingFrames) -> Tensor:
        """The folded frames between the ends, `(N, 6, H, W)`."""
        return hold_still(self._decode(left.features, left.patches), last_NCHW, left.hold)

    def last_two(self, latent_NCHW: Tensor, memory_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The last frame but one and the last frame of `forward`, each `(N, 3, H, W)`, without decoding the others."""
        features, patches = self._features(latent_NCHW, memory_NCHW)
        frames = self._decode(_last_half(features), _last_half(patches))
        before, last = frames.chunk(2, 1)
        return hold_still(before, last, stillness(latent_NCHW, memory_NCHW)), last

    def _features(self, latent_NCHW: Tensor, memory_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features and patches of all four frames, folded."""
        pair = torch.cat([latent_NCHW, memory_NCHW], 1).contiguous(memory_format=torch.channels_last)
        return self.to_frames(F.silu(self.stem(pair))), self.patch(latent_NCHW)

    def _decode(self, features: Tensor, patches: Tensor) -> Tensor:
        """k folded frames `(N, 3k, H, W)` from their features and patches."""
        k = patches.shape[1] // (3 * SPATIAL_FACTOR**2)
        frames = self.frame(rearrange(features, "n (k c) h w -> (n k) c h w", k=k))
        return rearrange(frames, "(n k) c h w -> n (k c) h w", k=k) + unfold_patches(patches)


def stillness(latent_NCHW: Tensor, memory_NCHW: Tensor) -> Tensor:
    """Stillness of each pixel, `(N, 1, H, W)`: 1 where the latent equals the one before it, 0 where it differs.

    A latent encodes the motion of its four frames. Still footage repeats latents without motion; a still world repeats
    the latent that it came to rest on, whose motion would play as a loop.
    """
    change_N1HW = (latent_NCHW - memory_NCHW).square().mean(1, keepdim=True)
    change_N1HW = F.avg_pool2d(change_N1HW, 3, 1, 1, count_include_pad=False)
    hold = torch.exp(-((change_N1HW / HOLD_CHANGE**2) ** 2))
    return F.interpolate(hold, scale_factor=SPATIAL_FACTOR, mode="bilinear")


def hold_still(folded_NCHW: Tensor, last_NCHW: Tensor, hold: Tensor) -> Tensor:
    """Folded frames, blended with the last frame of their chunk where the picture is still."""
    return torch.lerp(folded_NCHW, last_NCHW.tile(folded_NCHW.shape[1] // 3, 1, 1), hold)


def _at_ends(folded_NCHW: Tensor) -> Tensor:
    """The first and the last of four folded frames."""
    c = folded_NCHW.shape[1] // TEMPORAL_FACTOR
    return torch.cat([folded_NCHW[:, :c], folded_NCHW[:, -c:]], 1)


def _between(folded_NCHW: Tensor) -> Tensor:
    """The two middle frames of four folded frames."""
    c = folded_NCHW.shape[1] // TEMPORAL_FACTOR
    return folded_NCHW[:, c:-c]


def _last_half(folded_NCHW: Tensor) -> Tensor:
    """The last two of four folded frames."""
    return folded_NCHW[:, folded_NCHW.shape[1] // 2 :]
