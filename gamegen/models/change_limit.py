"""Limit on how far a drawn latent may lie from the motion-compensated one.

Scenes that training hardly saw, as rain at night in a rainforest, make the network draw latents with values that no
encoded picture has, and what is shown then is light blobs and rings. In recorded footage the distance of a latent from
the motion-compensated one is within a limit that the confidence tells. What exceeds it is an outlier and is taken back,
the further the more, as outliers lose their weight in robust statistics (Beaton and Tukey 1974); in place of thresholds
on pixels (Saharia et al. 2022, "Imagen", section 2.3).
"""

from __future__ import annotations

import torch
from torch import Tensor

_LIMIT_AT_ZERO, _LIMIT_DECAY, _MOST = 0.8, 0.9, 2.0
"""The limit, root mean square over channels, falls with confidence c: `1.28 exp(-0.9 c)`, at most 2.

Nine tenths of recorded places are within it (`tests/models/test_change_limit.py` has the quantiles).
"""
_POWER = 2.0


def limit_change(drawn_BCHW: Tensor, compensated_BCHW: Tensor, confidence_B1HW: Tensor) -> Tensor:
    """Drawn latents whose difference from the motion-compensated ones is within its limits, `(B, C, h, w)`.

    All latents are normalised. A place whose difference is r times its limit, r above 1, keeps `1 / r^2` of it; where
    the mean of r over all places is above 1, all of the picture does so once more.
    """
    change = drawn_BCHW - compensated_BCHW
    limit = (_LIMIT_AT_ZERO * torch.exp(-_LIMIT_DECAY * confidence_B1HW)).clamp(max=_MOST)
    ratio = change.square().mean(1, keepdim=True).sqrt() / limit
    share = ratio.clamp(min=1).pow(-_POWER) * ratio.mean((2, 3), keepdim=True).clamp(min=1).pow(-_POWER)
    return compensated_BCHW + share * change
