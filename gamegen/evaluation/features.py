"""What a network that has seen a million photographs makes of frames: features of EfficientNet-lite0.

Tan and Le 2019, "EfficientNet"; the weights (ImageNet) come inside a pip package. Frames are uint8 `(N, H, W, 3)`
RGB throughout, and go through the network at their own size: what is compared must have one size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from gamegen.models.image_features import image_features


@dataclass(frozen=True)
class FeatureMaps:
    """Activations `(N, C, h, w)` float32: `fine` at 1/8, `middle` at 1/16 and `last` at 1/32 of the frame's size."""

    fine: Tensor
    middle: Tensor
    last: Tensor

    def pooled(self) -> np.ndarray:
        """The last layer averaged over the frame, float32 `(N, 1280)`."""
        return self.last.mean((2, 3)).numpy()

    def centre_and_border(self) -> tuple[np.ndarray, np.ndarray]:
        """The middle layer averaged over the inner half of both sides, and over the rest, float32 `(N, 112)`."""
        height, width = self.middle.shape[2:]
        top, left = height // 4, width // 4
        inside = torch.zeros(height, width)
        inside[top : height - top, left : width - left] = 1
        outside = 1 - inside
        # A map of one cell has no border: then both are the whole.
        shares = (inside, outside if outside.any() else inside)
        centre, border = ((self.middle * share).sum((2, 3)) / share.sum() for share in shares)
        return centre.numpy(), border.numpy()


class FeatureNetwork:
    """EfficientNet-lite0 on the CPU."""

    @torch.inference_mode()
    def maps(self, frames: np.ndarray, frames_per_pass: int = 16) -> FeatureMaps:
        """Activations of all frames, a few frames a pass."""
        parts = []
        for start in range(0, len(frames), frames_per_pass):
            batch = torch.from_numpy(np.ascontiguousarray(frames[start : start + frames_per_pass])).float()
            parts.append(image_features()(rearrange(batch, "n h w c -> n c h w")))
        return FeatureMaps(*(torch.cat(layer) for layer in zip(*parts, strict=True)))


@functools.cache
def feature_network() -> FeatureNetwork:
    """The network, loaded once a process."""
    return FeatureNetwork()
