"""Reconstruction losses and figures of decoded videos, for the stages that train an autoencoder's parts.

Videos are float tensors `(B, T, 3, H, W)` in [-1, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gamegen.models.folding import to_pixels
from gamegen.models.vae import CausalVideoVAE


def reconstruction_loss(video: Tensor, target: Tensor, gradient_weight: float) -> Tensor:
    """L1 plus `gradient_weight` times the L1 of image gradients."""
    error = video - target
    return error.abs().mean() + gradient_weight * gradient_l1(error)


def gradient_l1(image: Tensor) -> Tensor:
    """Mean absolute horizontal gradient plus mean absolute vertical gradient of images `(..., H, W)`."""
    return image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean()


def psnr_db(video: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB."""
    return (10 * torch.log10(4 / (video.detach() - target).square().mean())).item()


def decoding_sheet(vae: CausalVideoVAE, video: Tensor) -> np.ndarray:
    """Contact sheet, uint8 `(H, W, 3)`: rows of the video, of its decoded and of its streamed reconstruction."""
    latent = vae.encode(video)
    rows = [video, vae.decode(latent), vae.decode_streaming(latent)]
    frames = [to_pixels(row[:6, -1]).cpu().numpy() for row in rows]
    return np.concatenate([np.concatenate(list(row), 1) for row in frames], 0)
