"""Looks: pictures so small that their difference says whether two moments look alike."""

from __future__ import annotations

import numpy as np
from PIL import Image

_SIZE = (16, 10)


def look_of(frame: np.ndarray) -> np.ndarray:
    """The square roots, float32 `(480,)` from 0 to 1, of a frame uint8 `(H, W, 3)` scaled to 16x10.

    The roots count dark pictures as bright ones.
    """
    small = Image.fromarray(frame).resize(_SIZE, Image.Resampling.BOX)
    return np.sqrt(np.asarray(small, np.float32).ravel() / 255)
