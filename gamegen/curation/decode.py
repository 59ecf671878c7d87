"""H.264 bytes to frames and back, for the shards: whole clips in memory, one thread each.

Ray runs one task a core, so a codec that starts threads of its own would only fight the other tasks.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np


def decode_clip(source: bytes | Path, max_frames: int | None = None) -> np.ndarray:
    """All frames of a video (or its first `max_frames`), uint8 RGB `(T, H, W, 3)`.

    Raises ValueError, with the reason, for anything that is not a readable video of at least one frame.
    """
    frames: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r") as container:
            if not container.streams.video:
                raise ValueError("cannot decode the clip: it has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                if max_frames is not None and len(frames) >= max_frames:
                    break
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"cannot decode the clip: {error}") from error
    if not frames:
        raise ValueError("cannot decode the clip: it holds no frame")
    if any(frame.shape != frames[0].shape for frame in frames):
        raise ValueError("cannot decode the clip: its frame size changes part-way; record one size a clip")
    return np.stack(frames)


def encode_clip(
    frames: np.ndarray, fps: int, *, crf: int = 14, keyframe_interval: int = 48, pixel_format: str = "yuv420p"
) -> bytes:
    """An MP4 (H.264, no B-frames) of uint8 RGB `(T, H, W, 3)` frames.

    `crf` is x264's quality (lower is better, 14 is close to transparent); a key frame at least every
    `keyframe_interval` frames lets a reader start anywhere. Raises ValueError for a wrong shape or dtype.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        stream.options = {
            "crf": str(crf),
            "preset": "veryfast",
            "bf": "0",
            "g": str(keyframe_interval),
        }
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()
