"""Recorded depth: the inverse distances of cells of pixels."""

from __future__ import annotations

import numpy as np

DEPTH_CELL_PX = 4
"""Side of a depth cell in pixels; the depth recorded for it is that of its middle pixel."""
DEPTH_SCALE = 127.5
"""An inverse depth is this divided by the distance along the view, in the game's unit of length (Minetest: nodes)."""


def depth_cells(inverse_depth: bytes, num_frames: int, width: int, height: int) -> np.ndarray:
    """`Clip.inverse_depth` as an array."""
    size = (num_frames, height // DEPTH_CELL_PX, width // DEPTH_CELL_PX)
    return np.frombuffer(inverse_depth, np.uint8).reshape(size)
