"""Reading of untrusted videos: packets are scanned within limits before any picture is decoded.

Only the containers and codecs named here are opened: others that FFmpeg knows read files and addresses that the video
names.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from gamegen.constants import FPS
from gamegen.media.frames import covering, cropped_to

MAX_VIDEO_BYTES = 8 * 1024 * 1024
MAX_PROMPT_BYTES = 2 * 1024 * 1024
"""Bytes of a video prompt: a session keeps several."""
MAX_VIDEO_S = 30.0
MAX_PROMPT_S = 10.0
MAX_VIDEO_FRAMES = 1800
"""Frames of half a minute at 60 a second."""
MAX_VIDEO_PIXELS = 1920 * 1080
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")
_MAX_PACKETS = 20_000
"""Packets of all streams together: half a minute with several sound tracks has far fewer."""
_MISSING_S = 0.2
"""Seconds by which a file may end before its declared duration without counting as cut off."""
_WHAT_TO_SEND = "send a complete MP4 or WebM file with H.264, H.265, VP8, VP9 or AV1"


@dataclass(frozen=True)
class _Outline:
    """Presentation times and key-frame flags of a video's packets, in the file's order, and the end of the video."""

    shown_s: list[float]
    are_keys: list[bool]
    end_s: float

    @property
    def num_frames(self) -> int:
        """Number of frames at `FPS`."""
        return max(1, round((self.end_s - min(self.shown_s)) * FPS))

    def time_s(self, index: int) -> float:
        """Sampling time of frame `index` in seconds: the middle of its duration, since files round times."""
        return min(self.shown_s) + (index + 0.5) / FPS

    def entry(self, time_s: float) -> int:
        """Index of the key packet from which the picture shown at a time can be decoded."""
        packets = enumerate(zip(self.shown_s, self.are_keys, strict=True))
        return max((i for i, (shown_s, is_key) in packets if is_key and shown_s <= time_s), default=0)


def count_frames(data: bytes, max_bytes: int = MAX_VIDEO_BYTES, max_s: float = MAX_VIDEO_S) -> int:
    """Number of frames of a video file at 24 a second; no picture is decoded.

    Raises ValueError, which says what to do, for a file that is no complete video, or that has more bytes, seconds,
    frames or pixels than are read.
    """
    return _outline(data, max_bytes, max_s).num_frames


def read_frames(
    data: bytes,
    size: tuple[int, int],
    max_frames: int,
    max_bytes: int = MAX_VIDEO_BYTES,
    max_s: float = MAX_VIDEO_S,
) -> np.ndarray:
    """A video's last `max_frames` frames at 24 a second, or all, uint8 `(T, H, W, 3)`.

    They are turned upright, scaled and centre-cropped to `size` = (width, height). Raises ValueError as `count_frames`,
    and for a video that cannot be decoded.
    """
    outline = _outline(data, max_bytes, max_s)
    first = max(0, outline.num_frames - max_frames)
    times_s = [outline.time_s(index) for index in range(first, outline.num_frames)]
    with _opened(data) as (container, stream):
        entry = outline.entry(times_s[0])
        frames = _decoded(container, stream, entry)
        return np.stack([*_frames_at(frames, times_s, size)])


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[Any, Any]]:
    """Opens a container and its best video stream; turns errors of FFmpeg into ValueErrors."""
    options = {"format_whitelist": _CONTAINERS, "max_pixels": str(2 * MAX_VIDEO_PIXELS)}
    try:
        with av.open(io.BytesIO(data), "r", options=options, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise ValueError(f"the file holds no supported video: {_WHAT_TO_SEND}")
            # More threads would take cores from running sessions.
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"the video cannot be read ({error.strerror}): {_WHAT_TO_SEND}") from error


def _outline(data: bytes, max_bytes: int, max_s: float) -> _Outline:
    if len(data) > max_bytes:
        raise ValueError(f"the video has {len(data)} bytes, at most {max_bytes} are read: send a smaller one")
    with _opened(data) as (container, stream):
        codec = stream.codec_context
        if codec.codec.canonical_name not in _CODECS:
            raise ValueError(f"the video's codec is {codec.codec.canonical_name}: {_WHAT_TO_SEND}")
        if codec.width * codec.height > MAX_VIDEO_PIXELS:
            raise ValueError(
                f"the video is {codec.width}x{codec.height}, at most {MAX_VIDEO_PIXELS} pixels (1920x1080) are read: "
                "scale it down"
            )
        return _scan_packets(container, stream, max_s)


def _scan_packets(container: Any, stream: Any, max_s: float) -> _Outline:
    """Reads all packets without decoding; raises ValueError for a damaged file or one beyond the limits."""
    shown_s: list[float] = []
    are_keys: list[bool] = []
    end_s = last_s = 0.0
    frame_s = float(1 / (stream.average_rate or FPS))
    for number, packet in enumerate(container.demux()):
        if packet.is_corrupt:
            raise ValueError(f"the video is cut off or damaged: {_WHAT_TO_SEND}")
        if number > _MAX_PACKETS or len(shown_s) > MAX_VIDEO_FRAMES:
            raise ValueError(f"the video has over {MAX_VIDEO_FRAMES} frames: send a shorter part of it")
        # The last packet of each stream is empty.
        if packet.pts is None or packet.is_discard:
            continue
        time_s = float(packet.pts * packet.time_base)
        lasts_s = float(packet.duration * packet.time_base) if packet.duration else frame_s
        last_s = max(last_s, time_s + lasts_s)
        if packet.stream_index == stream.index:
            shown_s.append(time_s)
            are_keys.append(packet.is_keyframe)
            end_s = max(end_s, time_s + lasts_s)
    if not shown_s:
        raise ValueError(f"the file holds no video frames: {_WHAT_TO_SEND}")
    length_s = end_s - min(shown_s)
    # Files round times, by far less than a frame.
    if length_s > max_s + 0.5 / FPS:
        raise ValueError(
            f"the video is {length_s:.1f} s long and the limit is {max_s:g}: send a shorter part of it"
        )
    if container.duration and last_s < container.duration / av.time_base - _MISSING_S:
        raise ValueError(f"the video is cut off: {_WHAT_TO_SEND}")
    return _Outline(shown_s, are_keys, end_s)


def _decoded(container: Any, stream: Any, entry: int) -> Iterator[av.VideoFrame]:
    """Frames in the order of their times, from packet `entry` on."""
    number = -1
    for packet in container.demux(stream):
        # Numbered as `_scan_packets` does.
        number += packet.pts is not None and not packet.is_discard
        if number >= entry or packet.pts is None:
            yield from (frame for frame in packet.decode() if frame.time is not None)


def _frames_at(
    frames: Iterator[av.VideoFrame], times_s: list[float], size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """The frame shown at each of the times, uint8 `(H, W, 3)`."""
    shown = picture = None
    following = next(frames, None)
    for time_s in times_s:
        while following is not None and following.time <= time_s:
            shown, picture, following = following, None, next(frames, None)
        if shown is None or shown.is_corrupt:
            raise ValueError(f"the video is damaged at {time_s:.2f} s: {_WHAT_TO_SEND}")
        if picture is None:
            picture = _picture(shown, size)
        yield picture


def _picture(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    # Phones write the picture as the sensor lies, and beside it how it was held.
    quarters = frame.rotation // 90 % 4
    lying = size[::-1] if quarters % 2 else size
    width, height = covering((frame.width, frame.height), lying)
    # Scaled on its way to RGB, which is far quicker than one after the other.
    method = "AREA" if width < frame.width else "BICUBIC"
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=method)
    return cropped_to(np.rot90(pixels, quarters)[None], size)[0]
