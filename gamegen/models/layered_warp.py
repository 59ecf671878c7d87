"""Layered warping: moves a frame's scenery behind what stands still in front of the camera.

A held tool covers other scenery in every frame. Moved as one picture, it would leave copies of itself where it stood:
the scenery is therefore moved without it, what it covered filled from around it, and it is laid over the result
(layered motion: Wang and Adelson 1994).

Shape suffixes as in `motion.py`; C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gamegen.models.motion import FINE, PredictedMotion
from gamegen.models.warping import inside, resize_flow, warp

_STILL_BELOW = 0.7
"""Value of `PredictedMotion.moving` below which a place belongs to the layer in front."""
_COVERED_SHARE = 0.3
"""Share of a place's source from which on it counts as covered."""


class Layers(NamedTuple):
    """A frame's two layers, and how the one behind moves to each of a chunk's frames.

    `flow` `(B, K, 2, q, r)` in pixels is the scenery's. `front` `(B, 1, q, r)` is 1 in places of what stands still in
    front of the camera, `covered` `(B, 1, q, r)` where scenery may be hidden by it. `unseen` `(B, K, q, r)` is 1 where
    the scenery comes from beyond the frame's edges, or was covered; `uncovered` is 1 in those of the second kind alone.
    """

    flow: Tensor
    front: Tensor
    covered: Tensor
    unseen: Tensor
    uncovered: Tensor

    def move(self, last_BCHW: Tensor) -> Tensor:
        """The frame moved to each of the chunk's, `(B, K, C, H, W)`."""
        height, width = last_BCHW.shape[-2:]
        scenery = fill(last_BCHW, 1 - F.interpolate(self.covered, (height, width)))
        moved = warp(scenery, resize_flow(self.flow, height, width))
        front = F.interpolate(self.front, (height, width), mode="bilinear")[:, None]
        return (moved * (1 - front) + last_BCHW[:, None] * front).to(last_BCHW.dtype)

    def row(self, number: int) -> Layers:
        """The layers of one row of the batch, `(1, ...)`."""
        return Layers(*(part[number : number + 1] for part in self))


def split_layers(motion: PredictedMotion) -> Layers:
    """The layers that the motion network tells apart."""
    front = (motion.moving < _STILL_BELOW)[:, None].to(motion.flow.dtype)
    # The edge of what stands still is seldom a place's edge.
    covered = F.max_pool2d(front, 3, 1, 1)
    flow = torch.where(covered[:, :, None] > 0, motion.scenery, motion.flow)
    behind = 1 - front
    source = warp(covered, flow / FINE, "bilinear")[:, :, 0]
    uncovered = (source > _COVERED_SHARE).to(flow.dtype) * behind
    unseen = torch.maximum(uncovered, (1 - inside(flow / FINE)) * behind)
    return Layers(flow, front, covered, unseen, uncovered)


def fill(image_BCHW: Tensor, known_B1HW: Tensor) -> Tensor:
    """Fills the unknown places of images, where `known` is 0 and not 1, from the known ones about them.

    Push-pull interpolation, coarse to fine (Gortler et al. 1996, "The lumigraph", section 3.4).
    """
    if min(image_BCHW.shape[-2:]) < 2:
        return image_BCHW
    weight = F.avg_pool2d(known_B1HW, 2)
    coarse = F.avg_pool2d(image_BCHW * known_B1HW, 2) / weight.clamp_min(1e-4)
    coarse = fill(coarse, (4 * weight).clamp(max=1))
    finer = F.interpolate(coarse, image_BCHW.shape[-2:], mode="bilinear")
    return image_BCHW * known_B1HW + finer * (1 - known_B1HW)
