"""Checks and scaling of video frames, `uint8 (T, H, W, 3)` RGB."""

from __future__ import annotations

import cv2
import numpy as np

MAX_STRETCH = 10
"""Largest ratio of a covering picture's longer side to the wanted one."""


def check_pixels(frames: np.ndarray) -> None:
    """Raises ValueError unless there are frames, `uint8 (T, H, W, 3)`."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    if not len(frames):
        raise ValueError("expected at least one frame, got none")


def resize_to(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames `uint8 (T, H, W, 3)` scaled and centre-cropped to `size` = (width, height), aspect kept.

    Raises ValueError as `covering`.
    """
    check_pixels(frames)
    old_height, old_width = frames.shape[1:3]
    if (old_width, old_height) == size:
        return frames
    scaled = covering((old_width, old_height), size)
    # Area averaging keeps a shrunk picture free of moire; enlarging wants a smooth interpolation instead.
    method = cv2.INTER_AREA if scaled[0] < old_width else cv2.INTER_CUBIC
    return cropped_to(np.stack([cv2.resize(f, scaled, interpolation=method) for f in frames]), size)


def covering(old: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Scaled (width, height) of a picture of size `old` that covers `size`, aspect kept.

    Raises ValueError for a strip, of which nearly nothing would be left and which would take much memory.
    """
    scale = max(size[0] / old[0], size[1] / old[1])
    scaled = max(size[0], round(old[0] * scale)), max(size[1], round(old[1] * scale))
    if scaled[0] > MAX_STRETCH * size[0] or scaled[1] > MAX_STRETCH * size[1]:
        raise ValueError(f"a picture of {old[0]}x{old[1]} is a strip: crop it to about {size[0]}x{size[1]}")
    return scaled


def cropped_to(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The centre of frames `(T, H, W, 3)` that are not smaller than `size` = (width, height)."""
    width, height = size
    left, top = (frames.shape[2] - width) // 2, (frames.shape[1] - height) // 2
    return np.ascontiguousarray(frames[:, top : top + height, left : left + width])
