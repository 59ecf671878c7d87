"""Reshapes between videos, folded frames, patches and pixels; pure functions.

A chunk's four frames are folded into channels; a patch is an 8x8 block of pixels folded into channels. Shape suffixes
as in `vae.py`.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from gamegen.constants import SPATIAL_FACTOR, TEMPORAL_FACTOR


def fold_frames(video_BFCHW: Tensor) -> Tensor:
    """Folds frames into channels: `(B, 4T, 3, H, W)` to `(B * T, 12, H, W)`."""
    return rearrange(video_BFCHW, "b (t k) c h w -> (b t) (k c) h w", k=TEMPORAL_FACTOR)


def unfold_frames(folded_NCHW: Tensor, T: int) -> Tensor:
    """The inverse of `fold_frames`."""
    return rearrange(folded_NCHW, "(b t) (k c) h w -> b (t k) c h w", t=T, k=TEMPORAL_FACTOR)


def fold_patches(folded_NCHW: Tensor) -> Tensor:
    """Folds 8x8 blocks into channels: `(N, 12, H, W)` to `(N, 768, h, w)`."""
    return rearrange(folded_NCHW, "n c (h p) (w q) -> n (c p q) h w", p=SPATIAL_FACTOR, q=SPATIAL_FACTOR)


def unfold_patches(patches_NCHW: Tensor) -> Tensor:
    """The inverse of `fold_patches`."""
    return rearrange(patches_NCHW, "n (c p q) h w -> n c (h p) (w q)", p=SPATIAL_FACTOR, q=SPATIAL_FACTOR)


def to_pixels(video: Tensor) -> Tensor:
    """Converts float frames `(..., C, H, W)` in [-1, 1] to uint8 `(..., H, W, C)`; others are clipped."""
    scaled = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(scaled, "... c h w -> ... h w c")


def chunk_pixels(folded_BCHW: Tensor) -> Tensor:
    """Converts folded frames of one chunk per session, `(B, 12, H, W)`, to uint8 `(B, 4, H, W, 3)`."""
    return to_pixels(rearrange(folded_BCHW, "b (k c) h w -> b k c h w", c=3))


def from_pixels(frames: Tensor) -> Tensor:
    """Converts uint8 `(..., H, W, C)` to float32 `(..., C, H, W)` in [-1, 1]."""
    return rearrange(frames, "... h w c -> ... c h w").float().div(127.5).sub(1)
