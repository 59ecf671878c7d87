"""Limit on how far a drawn latent may lie from the motion-compensated one.

Scenes that training hardly saw, as rain at night in a rainforest, make the network draw latents with values that no
encoded picture has, and what is shown then is light blobs and rings. In recorded footage the distance of a latent from
the motion-compensated one depends on the confidence. A picture whose places exceed that distance on average is an
outlier, and is taken back the more the further it lies, as outliers lose their weight in robust statistics (Beaton and
Tukey 1974). For guided pixels, thresholds do the same (Saharia et al. 2022, "Imagen", section 2.3).
"""

from __future__ import annotations

import torch
from torch import Tensor

_LIMIT_AT_ZERO, _LIMIT_DECAY, _MOST = 0.8, 0.9, 2.0
"""A place's limit, root mean square over channels, at confidence c is `0.8 exp(-0.9 c)`, and at most 2."""
_POWER = 2.0


def limit_change(drawn_BCHW: Tensor, compensated_BCHW: Tensor, confidence_B1HW: Tensor) -> Tensor:
    """Drawn latents that differ from the motion-compensated ones as footage does, `(B, C, h, w)`; all are normalised.

    A picture whose places differ by r times their limit on average, r above 1, keeps `1 / r^2` of its difference.
    """
    change = drawn_BCHW - compensated_BCHW
    limit = (_LIMIT_AT_ZERO * torch.exp(-_LIMIT_DECAY * confidence_B1HW)).clamp(max=_MOST)
    ratio = (change.square().mean(1, keepdim=True).sqrt() / limit).mean((1, 2, 3), keepdim=True)
    return compensated_BCHW + ratio.clamp(min=1).pow(-_POWER) * change
