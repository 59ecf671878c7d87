"""Wear: what motion-compensated latents look like after a picture has been moved again and again.

In play they are made of frames that were made of such frames: each warp smooths a little, and what one walks towards
grows out of few pixels. In recordings they are sharp, and a model that has only seen those copies what is worn instead
of drawing it anew (what noise augmentation of the context is against drift: Valevski et al. 2024, "Diffusion Models Are
Real-Time Game Engines", section 3.2.1, this is against blur).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from gamegen.models.folding import unfold_patches
from gamegen.models.model import Model

Wear = Literal["smooth", "flat", "walking"]
"""Blur over some three pixels, over some ten, which leaves little but colours, and away from the picture's middle."""
KINDS: tuple[Wear, ...] = get_args(Wear)
_DILATIONS = {"smooth": (1, 2), "flat": (1, 2, 4, 8)}
_KERNEL = (1.0, 4.0, 6.0, 4.0, 1.0)
_ZOOM = 0.07
"""Growth of a picture from chunk to chunk while one walks, about, in shares of its size."""
_NUM_ZOOMS = 4


@torch.no_grad()
def wear(model: Model, latent_NCHW: Tensor, amount_N: Tensor, kind: Wear) -> Tensor:
    """Normalised latents, of which a share `amount` (0 to 1) is blurred in the picture that they decode to."""
    decoder, encoder = model.vae.streaming, model.vae.encoder
    z = model.denormalise(latent_NCHW).to(decoder.patch.weight.dtype)
    frames = unfold_patches(decoder.patch(z))
    blurred = _zoomed(frames) if kind == "walking" else _smoothed(frames, _DILATIONS[kind])
    # The encoder is linear: only what changes passes through it.
    change = encoder(blurred, 1)[0] - encoder(frames, 1)[0]
    return model.normalise(model.denormalise(latent_NCHW) + amount_N[:, None, None, None] * change.float())


def _smoothed(frames_NCHW: Tensor, dilations: tuple[int, ...]) -> Tensor:
    kernel = torch.tensor(_KERNEL, dtype=frames_NCHW.dtype, device=frames_NCHW.device)
    plane = torch.outer(kernel, kernel) / kernel.sum() ** 2
    channels = frames_NCHW.shape[1]
    weight = plane.expand(channels, 1, *plane.shape)
    for dilation in dilations:
        padded = F.pad(frames_NCHW, [2 * dilation] * 4, mode="replicate")
        frames_NCHW = F.conv2d(padded, weight, groups=channels, dilation=dilation)
    return frames_NCHW


def _zoomed(frames_NCHW: Tensor) -> Tensor:
    N = len(frames_NCHW)
    total = frames_NCHW.clone()
    for number in range(1, _NUM_ZOOMS):
        scale = 1 - _ZOOM * number
        turn = torch.tensor(
            [[scale, 0.0, 0.0], [0.0, scale, 0.0]], dtype=frames_NCHW.dtype, device=frames_NCHW.device
        )
        grid = F.affine_grid(turn.expand(N, 2, 3), list(frames_NCHW.shape), align_corners=False)
        total = total + F.grid_sample(frames_NCHW, grid, padding_mode="border", align_corners=False)
    return total / _NUM_ZOOMS
