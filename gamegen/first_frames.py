"""What a world goes on from: a picture, or the end of a video, as a file of either.

A picture is one chunk of four equal frames; of a video so many whole chunks count as the world remembers.
"""

from __future__ import annotations

import numpy as np

from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.uploaded_video import count_frames, read_frames
from gamegen.video import decode_image, resize_to

MAX_CHUNKS = 60
"""Ten seconds. Large models remember longer; they would take minutes to read it all."""


def is_image(data: bytes) -> bool:
    """Whether a file begins as a PNG, JPEG or WebP file does: it is read as a picture then, else as a video."""
    return data.startswith((b"\x89PNG", b"\xff\xd8\xff")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def check_video(data: bytes) -> None:
    """Raises ValueError, which says what to do, for a file that is no video to go on from; no picture is decoded."""
    if is_image(data):
        raise ValueError("the video is a picture: give it as the image")
    _check_length(count_frames(data))


def read_first_frames(data: bytes, size: tuple[int, int], max_chunks: int) -> np.ndarray:
    """The frames of a file, uint8 `(T, H, W, 3)`, scaled and centre-cropped to `size` = (width, height).

    Those of a video are its last whole chunks, at most `max_chunks` and `MAX_CHUNKS`. Raises ValueError, which says
    what to do, for a file that cannot be read or is too large, and for a video of less than a chunk.
    """
    if is_image(data):
        return np.repeat(resize_to(decode_image(data)[None], size), FRAMES_PER_CHUNK, 0)
    frames = read_frames(data, size, min(max_chunks, MAX_CHUNKS) * FRAMES_PER_CHUNK)
    _check_length(len(frames))
    return frames[len(frames) % FRAMES_PER_CHUNK :]


def _check_length(num_frames: int) -> None:
    if num_frames < FRAMES_PER_CHUNK:
        raise ValueError(
            f"the video has {num_frames} frames at 24 a second: send at least {FRAMES_PER_CHUNK}, or a picture"
        )
