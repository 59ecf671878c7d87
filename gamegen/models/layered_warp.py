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
_EDGE_PLACES = 2
"""Places about the layer in front that may be covered too: its edge is not known well."""
_LIKE, _UNLIKE = 0.08, 0.22
"""Difference from the scenery, in [-1, 1], up to which a pixel is scenery, and from which on it is in front of it."""
_EXPECTED_WORTH = 0.5
"""Added to the difference, in [-1, 1], for each unit of expected opacity above 0.5."""
_COVERED_SHARE = 0.3
"""Share of a place's source from which on it counts as covered."""


class Layers(NamedTuple):
    """A frame's two layers, and how the one behind moves to each of a chunk's frames.

    `flow` `(B, K, 2, q, r)` in pixels is the scenery's. `front` `(B, 1, q, r)` is 1 in places of what stands still in
    front of the camera, `covered` `(B, 1, q, r)` where scenery may be hidden by it. `unseen` `(B, K, q, r)` is 1 where
    the scenery comes from beyond the frame's edges, or was covered. `expected` `(B, 1, H, W)`, or 1 for H and W, is the
    opacity that pixels in front have had on average, 0.5 where nothing is known.
    """

    flow: Tensor
    front: Tensor
    covered: Tensor
    unseen: Tensor
    expected: Tensor

    def move(self, last_BCHW: Tensor, detail_BCHW: Tensor | None = None) -> Tensor:
        """The frame moved to each of the chunk's, `(B, K, C, H, W)`.

        A residual `detail` is warped along and added, with weights that rise linearly to 1 in the last frame.
        """
        height, width = last_BCHW.shape[-2:]
        filled, difference = self._compared(last_BCHW)
        opacity = self._opacity(difference + _EXPECTED_WORTH * (self.expected - 0.5))
        # Near the layer in front most pixels are scenery nevertheless, and are moved as they are.
        scenery = last_BCHW + opacity * (filled - last_BCHW)
        flow = resize_flow(self.flow, height, width)
        moved = warp(scenery, flow)
        if detail_BCHW is not None:
            weights = torch.linspace(1 / flow.shape[1], 1, flow.shape[1]).to(flow)
            moved = moved + warp(detail_BCHW, flow) * weights[:, None, None, None]
        # Where the scenery rests, nothing need be told apart. (`norm` of a dimension in the middle takes 30 ms.)
        resting = (1 - torch.hypot(flow[:, :, :1], flow[:, :, 1:])).clamp_min(0)
        covered = F.interpolate(self.covered, (height, width), mode="bilinear")[:, None]
        front = torch.maximum(opacity[:, None], covered * resting)
        return (moved * (1 - front) + last_BCHW[:, None] * front).to(last_BCHW.dtype)

    def source_area(self) -> Tensor:
        """Area in the last frame of what places of the chunk's last show, `(B, q, r)`: under 1 where it is magnified.

        It is the determinant of the flow's Jacobian, in places of size 1, by central differences.
        """
        flow = F.pad(self.flow[:, -1] / FINE, (1, 1, 1, 1), mode="replicate")
        down = (flow[..., 2:, 1:-1] - flow[..., :-2, 1:-1]) / 2
        right = (flow[..., 1:-1, 2:] - flow[..., 1:-1, :-2]) / 2
        return ((1 + right[:, 0]) * (1 + down[:, 1]) - right[:, 1] * down[:, 0]).clamp_min(0)

    def opacity(self, last_BCHW: Tensor) -> Tensor:
        """Opacity of the front layer in each pixel, `(B, 1, H, W)`, by this frame alone."""
        return self._opacity(self._compared(last_BCHW)[1])

    def _compared(self, last_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The scenery with what is covered filled, and the frame's difference from it, `(B, 1, H, W)`."""
        filled = fill(last_BCHW, 1 - F.interpolate(self.covered, last_BCHW.shape[-2:]))
        difference = (last_BCHW - filled).abs().amax(1, keepdim=True)
        return filled, F.avg_pool2d(difference, 3, 1, 1)

    def _opacity(self, difference_B1HW: Tensor) -> Tensor:
        """Opacity of the front layer by the difference from the filled scenery.

        The motion network knows the layer by places alone, whose corners are scenery.
        """
        size = difference_B1HW.shape[-2:]
        within = F.interpolate(F.max_pool2d(self.front, 3, 1, 1), size, mode="bilinear")
        return within * ((difference_B1HW - _LIKE) / (_UNLIKE - _LIKE)).clamp(0, 1)

    def filled(self, filled_Kqr: Tensor) -> Layers:
        """These layers of one row, with what is unseen filled in places."""
        return self._replace(unseen=self.unseen * (1 - filled_Kqr))

    def row(self, number: int) -> Layers:
        """The layers of one row of the batch, `(1, ...)`."""
        return Layers(*(part[number : number + 1] for part in self))


def split_layers(motion: PredictedMotion, expected: Tensor | None = None) -> Layers:
    """The layers that the motion network tells apart; `expected` as in `Layers`, None where nothing is known."""
    front = (motion.moving < _STILL_BELOW)[:, None].to(motion.flow.dtype)
    covered = F.max_pool2d(front, 2 * _EDGE_PLACES + 1, 1, _EDGE_PLACES)
    flow = torch.where(covered[:, :, None] > 0, motion.scenery, motion.flow)
    behind = 1 - front
    source = warp(covered, flow / FINE, "bilinear")[:, :, 0]
    uncovered = (source > _COVERED_SHARE).to(flow.dtype) * behind
    unseen = torch.maximum(uncovered, (1 - inside(flow / FINE)) * behind)
    if expected is None:
        expected = front.new_full((len(front), 1, 1, 1), 0.5)
    return Layers(flow, front, covered, unseen, expected.to(front))


def fill(image_BCHW: Tensor, known_B1HW: Tensor) -> Tensor:
    """Fills the unknown places of images, where `known` is 0 and not 1, from the known ones about them.

    Push-pull interpolation, coarse to fine (Gortler et al. 1996, "The lumigraph", section 3.4): first along rows,
    because ground is like the ground beside it, and not like the sky above.
    """
    height, width = image_BCHW.shape[-2:]
    if height * width == 1:
        return image_BCHW
    pool = (1, 2) if width > 1 else (2, 1)
    weight = F.avg_pool2d(known_B1HW, pool)
    coarse = F.avg_pool2d(image_BCHW * known_B1HW, pool) / weight.clamp_min(1e-4)
    coarse = fill(coarse, (2 * weight).clamp(max=1))
    finer = F.interpolate(coarse, (height, width), mode="bilinear")
    return image_BCHW * known_B1HW + finer * (1 - known_B1HW)
