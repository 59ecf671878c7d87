"""Videos of strangers: how much of them is read, and their frames at 24 a second."""

from __future__ import annotations

import numpy as np

from gamegen.media.video_file import VideoFile
from gamegen.media.video_outline import VideoLimits

MAX_VIDEO_BYTES = 8 * 1024 * 1024
MAX_PROMPT_BYTES = 2 * 1024 * 1024
"""Bytes of a video prompt: a session keeps several."""
MAX_VIDEO_S = 30.0
MAX_PROMPT_S = 10.0
MAX_VIDEO_FRAMES = 1800
"""Frames of half a minute at 60 a second."""
MAX_VIDEO_PIXELS = 1920 * 1080
_MAX_PACKETS = 20_000
"""Packets of all streams together: half a minute with several sound tracks has far fewer."""


def open_video(data: bytes, max_bytes: int = MAX_VIDEO_BYTES, max_s: float = MAX_VIDEO_S) -> VideoFile:
    """Opens a video file; only the first picture is decoded.

    Raises ValueError, which says what to do, for a file that is no complete video, or that has more bytes, seconds,
    frames or pixels than are read.
    """
    return VideoFile.open(data, _limits(max_bytes, max_s))


def count_frames(data: bytes, max_bytes: int = MAX_VIDEO_BYTES, max_s: float = MAX_VIDEO_S) -> int:
    """Number of frames of a video file at 24 a second; raises ValueError as `open_video`."""
    return open_video(data, max_bytes, max_s).num_frames


def read_frames(
    data: bytes,
    size: tuple[int, int],
    max_frames: int,
    max_bytes: int = MAX_VIDEO_BYTES,
    max_s: float = MAX_VIDEO_S,
) -> np.ndarray:
    """A video's last `max_frames` frames at 24 a second, or all, uint8 `(T, H, W, 3)`.

    They are as a player shows them, scaled and centre-cropped to `size` = (width, height). Raises ValueError as
    `open_video`, and for a video that cannot be decoded.
    """
    return np.stack([*open_video(data, max_bytes, max_s).frames(size, max_frames)])


def _limits(max_bytes: int, max_s: float) -> VideoLimits:
    return VideoLimits(
        containers="mov,mp4,m4a,3gp,3g2,mj2,matroska,webm",
        codecs=("h264", "hevc", "vp8", "vp9", "av1", "mpeg4"),
        max_bytes=max_bytes,
        max_s=max_s,
        max_frames=MAX_VIDEO_FRAMES,
        max_pixels=MAX_VIDEO_PIXELS,
        max_packets=_MAX_PACKETS,
    )
