"""Frames brought to the size of a file: enlarged, shrunk or cropped.

Enlarging is bicubic interpolation with back-projection (Irani and Peleg 1991, "Improving resolution by image
registration"): what the enlarged picture lacks, when it is shrunk again, of the picture that it was made from is added
to it. `gamegen bench enlarging` compares.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from gamegen.media.frames import check_pixels, covering, cropped_to, resize_to

UPSCALER = "bicubic-backprojection"
"""Name of the upscaling method."""
_ROUNDS = 2

Enlarge = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
"""A larger picture, uint8, of one of uint8 `(H, W, 3)`, and its (width, height)."""


def enlarges(drawn: tuple[int, int], size: tuple[int, int]) -> bool:
    """True if frames of `drawn` = (width, height) have to be enlarged for `size`, rather than cropped or shrunk."""
    return size[0] > drawn[0] or size[1] > drawn[1]


def bring_to(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames `uint8 (T, H, W, 3)` that fill `size` = (width, height), aspect kept, what is left over cropped evenly.

    Raises ValueError as `gamegen.media.frames.covering`.
    """
    check_pixels(frames)
    drawn = frames.shape[2], frames.shape[1]
    if not enlarges(drawn, size):
        return resize_to(frames, size)
    scaled = covering(drawn, size)
    return cropped_to(np.stack([back_projected(frame, scaled) for frame in frames]), size)


def back_projected(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture uint8 `(H, W, 3)` enlarged to `size` = (width, height)."""
    original = frame.astype(np.float32)
    small = frame.shape[1], frame.shape[0]
    larger = cv2.resize(original, size, interpolation=cv2.INTER_CUBIC)
    for _ in range(_ROUNDS):
        lacking = original - cv2.resize(larger, small, interpolation=cv2.INTER_AREA)
        larger = larger + cv2.resize(lacking, size, interpolation=cv2.INTER_CUBIC)
    return np.clip(larger, 0, 255).round().astype(np.uint8)


def bicubic(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As `back_projected`, by bicubic interpolation alone."""
    return cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)


def lanczos(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As `back_projected`, by Lanczos interpolation over 8x8 pixels."""
    return cv2.resize(frame, size, interpolation=cv2.INTER_LANCZOS4)


ENLARGERS: dict[str, Enlarge] = {UPSCALER: back_projected, "lanczos": lanczos, "bicubic": bicubic}
"""Upscaling methods by name, for comparison."""
