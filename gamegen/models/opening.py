"""Openings: the first latents and frames of a world that continues a picture, a video or a recorded start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gamegen.models.model import Model


@dataclass(frozen=True)
class Opening:
    """First latents `(T, C, h, w)`, normalised; `is_varied` has the engine vary the last one by the seed.

    `shown` uint8 `(2, H, W, 3)` are the last two frames that the latents are of, None where they are not known. A world
    that follows the shown frames keeps their detail, which latents lack.
    """

    latents: Tensor
    is_varied: bool = False
    shown: Tensor | None = None

    @classmethod
    def of_frames(cls, frames: np.ndarray, model: Model) -> Opening:
        """The opening that frames uint8 `(4T, H, W, 3)` of the world's size make."""
        return cls(model.encode(frames), shown=torch.from_numpy(frames[-2:].copy()))
