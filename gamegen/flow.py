"""Rectified flow with one noise level per latent frame.

`x_t = (1 - t) * x_0 + t * noise`, velocity `v = noise - x_0`, `t = 1` is pure noise
(Liu et al. 2022, "Flow Straight and Fast"; per-frame levels: Chen et al. 2024, "Diffusion Forcing").

Shape suffixes: B batch, T latent frames, C channels, H and W latent height and width.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def expand_levels(level_BT: Tensor) -> Tensor:
    """Noise levels `(B, T)` as `(B, T, 1, 1, 1)`, ready to broadcast over latents."""
    return level_BT[:, :, None, None, None]


def add_noise(x0_BTCHW: Tensor, noise_BTCHW: Tensor, level_BT: Tensor) -> Tensor:
    """Noisy latents `x_t`, each latent frame at its own level in [0, 1]."""
    t = expand_levels(level_BT)
    return (1 - t) * x0_BTCHW + t * noise_BTCHW


def predict_x0(xt_BTCHW: Tensor, velocity_BTCHW: Tensor, level_BT: Tensor) -> Tensor:
    """Clean latents to which a velocity points: `x_0 = x_t - t * v`."""
    return xt_BTCHW - expand_levels(level_BT) * velocity_BTCHW


def sample_levels(
    shape: tuple[int, ...],
    shift: float | Tensor,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Training levels from a logit-normal with mean `shift`, one for all or a tensor of `shape` on `device`.

    Positive shifts favour high noise (SD3, §3.1).
    """
    return torch.sigmoid(torch.randn(shape, generator=generator).to(device) + shift)


def schedule(num_steps: int, shift: float = 3.0) -> list[float]:
    """`num_steps + 1` levels from 1 down to 0; `shift` > 1 spends more steps at high noise (SD3, §5.3.2)."""
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}: at least one denoising step is needed")
    uniform = [1 - i / num_steps for i in range(num_steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in uniform]


def counter_noise(seed: int, chunk: int, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise that is a pure function of (seed, chunk, purpose); float32 on the CPU.

    A run that is resumed, or moved to another replica, therefore generates equal latents.
    """
    digest = hashlib.sha256(f"{seed}/{chunk}/{purpose}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator)
