"""First frames of a world, read from a picture or from the end of a video.

A picture is one chunk of four equal frames; of a video as many whole chunks count as the world remembers.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.media.frames import covering, resize_to
from gamegen.media.images import decode_image
from gamegen.media.kinds import is_image
from gamegen.media.untrusted import count_frames, open_video, read_frames

FirstFrames = Literal["image", "video"]
MAX_FIRST_CHUNKS = 60
"""Chunks of ten seconds. Large models remember longer, but would take minutes to read it all."""


def check_video(data: bytes) -> None:
    """Checks that a file is a video to go on from by its first picture; raises ValueError with what to do."""
    if is_image(data):
        raise ValueError("the video is a picture: give it as the image")
    _check_length(count_frames(data))


def check_first_frames(kind: FirstFrames, data: bytes, size: tuple[int, int]) -> None:
    """Checks, by decoding it, that a file can begin a world of `size` = (width, height) as an image or a video.

    Raises ValueError as `read_first_frames`, and for a file of the other kind.
    """
    if kind == "image":
        height, width = decode_image(data).shape[:2]
        covering((width, height), size)
        return
    check_video(data)
    open_video(data).check(size, MAX_FIRST_CHUNKS * FRAMES_PER_CHUNK)


def read_first_frames(data: bytes, size: tuple[int, int], max_chunks: int) -> np.ndarray:
    """The frames of a file, uint8 `(T, H, W, 3)`, scaled and centre-cropped to `size` = (width, height).

    Those of a video are its last whole chunks, at most `max_chunks` and `MAX_FIRST_CHUNKS`. Raises ValueError, which
    says what to do, for a file that cannot be read or is too large, and for a video of less than a chunk.
    """
    if is_image(data):
        return np.repeat(resize_to(decode_image(data)[None], size), FRAMES_PER_CHUNK, 0)
    frames = read_frames(data, size, min(max_chunks, MAX_FIRST_CHUNKS) * FRAMES_PER_CHUNK)
    _check_length(len(frames))
    return frames[len(frames) % FRAMES_PER_CHUNK :]


def check_frames_fit(frames: np.ndarray, size: tuple[int, int]) -> None:
    """Raises ValueError unless frames `(T, H, W, 3)` are whole chunks of the world's (width, height)."""
    if frames.shape[1:] != (size[1], size[0], 3):
        raise ValueError(
            f"the first frames are {frames.shape[2]}x{frames.shape[1]}: resize them to {size[0]}x{size[1]}"
        )
    if not len(frames) or len(frames) % FRAMES_PER_CHUNK:
        raise ValueError(
            f"{len(frames)} first frames: a chunk has {FRAMES_PER_CHUNK}, a picture is one of equal frames"
        )


def _check_length(num_frames: int) -> None:
    if num_frames < FRAMES_PER_CHUNK:
        raise ValueError(
            f"the video has {num_frames} frames at 24 a second: send at least {FRAMES_PER_CHUNK}, or a picture"
        )
