"""Backward warping of frames.

A flow is float `(..., 2, H, W)`: the offset in pixels, to the right and down, from each pixel of a frame to the same
content in an earlier frame. Shape suffixes: B batch, K frames, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]


def warp(frame_BCHW: Tensor, flow_BKtHW: Tensor, interpolation: Interpolation = "bicubic") -> Tensor:
    """Warps a frame backwards by K flows, `(B, K, C, H, W)`; positions outside repeat the nearest edge.

    Bicubic keeps the detail that repeated warping would blur; bilinear has the calmer gradient to learn by.
    """
    K = flow_BKtHW.shape[1]
    source = frame_BCHW[:, None].expand(-1, K, -1, -1, -1).flatten(0, 1)
    read = _read(source, flow_BKtHW.flatten(0, 1), interpolation)
    return rearrange(read, "(b k) c h w -> b k c h w", k=K)


def resize_flow(flow_BKtHW: Tensor, height: int, width: int) -> Tensor:
    """Resamples a flow to another grid; its lengths stay in pixels of the frames."""
    resized = F.interpolate(flow_BKtHW.flatten(0, 1), (height, width), mode="bilinear", align_corners=False)
    return resized.unflatten(0, flow_BKtHW.shape[:2])


def inside(flow_BKtHW: Tensor) -> Tensor:
    """1 where a flow leads into the frame, 0 where it leads out, `(B, K, H, W)`."""
    H, W = flow_BKtHW.shape[-2:]
    places = _places(flow_BKtHW)
    x, y = places[:, :, 0], places[:, :, 1]
    return ((x >= -0.5) & (x <= W - 0.5) & (y >= -0.5) & (y <= H - 0.5)).float()


def _read(source_NCHW: Tensor, flow_NtHW: Tensor, interpolation: Interpolation) -> Tensor:
    H, W = source_NCHW.shape[-2:]
    size = torch.tensor([W, H], device=flow_NtHW.device, dtype=torch.float32)
    places = rearrange(_places(flow_NtHW.float()), "n t h w -> n h w t")
    return F.grid_sample(
        source_NCHW.float(),
        (places + 0.5) / size * 2 - 1,
        mode=interpolation,
        padding_mode="border",
        align_corners=False,
    )


def _places(flow: Tensor) -> Tensor:
    """Sampling positions in the source frame, x and y in pixels."""
    H, W = flow.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(H, device=flow.device), torch.arange(W, device=flow.device), indexing="ij"
    )
    return torch.stack([x, y]) + flow
