"""The outline of a video: when its packets are shown, scanned within limits before any picture is decoded."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from gamegen.constants import FPS

WHAT_TO_SEND = "send a complete MP4 or WebM file with H.264, H.265, VP8, VP9 or AV1"
_MISSING_S = 0.2
"""Seconds by which a file may end before its declared duration without counting as cut off."""


@dataclass(frozen=True)
class VideoLimits:
    """What is read of a video; None does not limit.

    `containers` are FFmpeg's names: others that it knows read files and addresses that the video names.
    """

    containers: str
    codecs: tuple[str, ...] | None = None
    max_bytes: int | None = None
    max_s: float | None = None
    max_frames: int | None = None
    max_pixels: int | None = None
    max_packets: int | None = None


FOOTAGE = VideoLimits(containers="mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts")
"""Files that whoever runs GameGen chose: of any codec, length and size."""


@dataclass(frozen=True)
class VideoOutline:
    """Presentation times and key-frame flags of all packets, in the file's order, and the end of the video."""

    times_s: list[float]
    are_keys: list[bool]
    end_s: float

    def entry(self, time_s: float) -> int:
        """Index of the key packet from which the picture shown at a time can be decoded."""
        packets = enumerate(zip(self.times_s, self.are_keys, strict=True))
        return max((i for i, (shown_s, is_key) in packets if is_key and shown_s <= time_s), default=0)


def scan_packets(container: Any, stream: Any, limits: VideoLimits) -> VideoOutline:
    """Reads all packets without decoding; raises ValueError for a damaged file or one beyond the limits."""
    times_s: list[float] = []
    are_keys: list[bool] = []
    shown_s: list[float] = []
    end_s = last_s = 0.0
    has_durations = True
    for number, packet in enumerate(container.demux()):
        if packet.is_corrupt:
            raise ValueError(f"the video is cut off or damaged: {WHAT_TO_SEND}")
        if (limits.max_packets is not None and number > limits.max_packets) or (
            limits.max_frames is not None and len(shown_s) > limits.max_frames
        ):
            raise ValueError(f"the video has over {limits.max_frames} frames: send a shorter part of it")
        # The last packet of each stream is empty.
        if packet.pts is None:
            continue
        time_s = float(packet.pts * packet.time_base)
        lasts_s = float((packet.duration or 0) * packet.time_base)
        is_video = packet.stream_index == stream.index
        if is_video:
            times_s.append(time_s)
            are_keys.append(packet.is_keyframe)
        # An edit list cuts it off, though later frames may need it.
        if packet.is_discard:
            continue
        last_s = max(last_s, time_s + lasts_s)
        if is_video:
            shown_s.append(time_s)
            has_durations = has_durations and lasts_s > 0
            end_s = max(end_s, time_s + lasts_s)
    if not shown_s:
        raise ValueError(f"the file holds no video frames: {WHAT_TO_SEND}")
    if not has_durations:
        end_s = max(end_s, max(shown_s) + _usual_duration_s(shown_s, stream.average_rate))
    length_s = end_s - min(shown_s)
    # Files round times, by far less than a frame.
    if limits.max_s is not None and length_s > limits.max_s + 0.5 / FPS:
        raise ValueError(
            f"the video is {length_s:.1f} s long and the limit is {limits.max_s:g}: send a shorter part of it"
        )
    if container.duration and max(last_s, end_s) < container.duration / av.time_base - _MISSING_S:
        raise ValueError(f"the video is cut off: {WHAT_TO_SEND}")
    return VideoOutline(times_s, are_keys, end_s)


def _usual_duration_s(shown_s: list[float], average_rate: Fraction | None) -> float:
    """The duration of a frame of which the file says none."""
    if average_rate:
        return float(1 / average_rate)
    times_s = sorted(shown_s)
    steps_s = [b - a for a, b in itertools.pairwise(times_s)]
    return statistics.median(steps_s) if steps_s else 1 / FPS
