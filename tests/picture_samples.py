"""Small made-up pictures and videos for tests."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from gamegen.media.mp4 import write_mp4


def moving_square(frames: int = 8, height: int = 48, width: int = 64) -> np.ndarray:
    clip = np.full((frames, height, width, 3), 40, np.uint8)
    for t in range(frames):
        clip[t, 10:30, 4 * t : 4 * t + 20] = (220, 120, 30)
    return clip


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def mp4_bytes(frames: np.ndarray, crf: int = 18) -> bytes:
    """A video file of uint8 frames `(T, H, W, 3)`."""
    # The muxer reopens its output to move the index to the front, which only a real file allows.
    with tempfile.TemporaryDirectory() as folder:
        write_mp4(Path(folder) / "clip.mp4", frames, crf=crf)
        return (Path(folder) / "clip.mp4").read_bytes()
