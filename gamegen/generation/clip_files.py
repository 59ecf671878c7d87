"""Writer of a clip's MP4 and thumbnail, whose bytes depend on the frames alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from gamegen.constants import FPS
from gamegen.media.frames import check_pixels, resize_to
from gamegen.media.images import encode_jpegs
from gamegen.media.mp4 import Mp4Writer

FRAME_RATES = (FPS, 30)
"""Frame rates that a clip can be written at; frames are drawn at 24 a second."""
MAX_THUMBNAIL_WIDTH = 320
_SMPTE170M = 6
"""Color matrix of the conversion to YUV; players assume another for large frames without this tag."""
_FRAMES_AHEAD = 4
"""Lookahead of interpolation in frames: the last frame is repeated so often, or the end would be cut off."""


@dataclass(frozen=True)
class ClipFacts:
    """SHA-256 of a clip's raw frames in hexadecimal, and a JPEG thumbnail of its middle frame."""

    frames_sha256: str
    thumbnail: bytes


class ClipWriter:
    """Writes an H.264 MP4 (yuv420p, its index first) of `num_frames` frames; its duration is that at 24 a second.

        with ClipWriter.open(path, (160, 96), num_frames=102) as writer:
            for frames in ...:
                writer.add(frames)
        writer.facts

    At another rate than `FPS` the frames between are drawn by motion compensation.
    """

    def __init__(self, mp4: Mp4Writer, size: tuple[int, int], num_frames: int, fps: int) -> None:
        self._mp4 = mp4
        self._size = size
        self._num_frames = num_frames
        # Rounded up: nothing of the last frame's time is lost.
        self._num_written = -(-num_frames * fps // FPS)
        self._num_taken = 0
        self._digest = hashlib.sha256()
        self._thumbnail = b""
        self._interpolator = _FrameInterpolator(size, fps) if fps != FPS else None

    @classmethod
    @contextmanager
    def open(cls, path: Path, size: tuple[int, int], num_frames: int, fps: int = FPS) -> Iterator[ClipWriter]:
        """A writer of a clip of `size` = (width, height); its file is there once the `with` block ends.

        Raises ValueError for a rate that is not one of `FRAME_RATES`, and for less frames than were announced.
        """
        if fps not in FRAME_RATES:
            raise ValueError(f"fps = {fps}: a clip has {' or '.join(map(str, FRAME_RATES))} frames a second")
        # One thread: more would divide pictures in other ways.
        with Mp4Writer.open(path, size, fps=fps, colorspace=_SMPTE170M, is_bitexact=True) as mp4:
            writer = cls(mp4, size, num_frames, fps)
            yield writer
            writer._finish()

    @property
    def facts(self) -> ClipFacts:
        """Facts of the whole clip; valid once all frames are written."""
        return ClipFacts(self._digest.hexdigest(), self._thumbnail)

    def add(self, frames: np.ndarray) -> None:
        """Writes the next frames, uint8 `(T, H, W, 3)`, and drops those beyond the clip's end.

        Raises ValueError for frames of another size.
        """
        check_pixels(frames)
        if frames.shape[1:3] != self._size[::-1]:
            raise ValueError(
                f"frames of {frames.shape[2]}x{frames.shape[1]} for a clip of {self._size[0]}x{self._size[1]}"
            )
        for pixels in np.ascontiguousarray(frames[: self._num_frames - self._num_taken]):
            self._digest.update(pixels.data)
            if self._num_taken == self._num_frames // 2:
                self._thumbnail = _thumbnail(pixels)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = self._num_taken, Fraction(1, FPS)
            self._num_taken += 1
            for shown in self._interpolator.push(frame) if self._interpolator else [frame]:
                self._encode(shown)

    def _encode(self, frame: Any) -> None:
        if self._mp4.num_frames < self._num_written:
            # Each by its own merits: the encoder, not the filter, says which is a key frame.
            frame.pict_type = av.video.frame.PictureType.NONE
            self._mp4.write_picture(frame)

    def _finish(self) -> None:
        if self._num_taken < self._num_frames:
            raise ValueError(f"the clip has {self._num_taken} of {self._num_frames} frames")
        for shown in self._interpolator.rest() if self._interpolator else ():
            self._encode(shown)


class _FrameInterpolator:
    """Motion-compensated frames at another rate, by libavfilter."""

    def __init__(self, size: tuple[int, int], fps: int) -> None:
        self._graph = av.filter.Graph()
        self._graph.threads = 1
        source = self._graph.add_buffer(
            width=size[0],
            height=size[1],
            format=av.VideoFormat("yuv420p", *size),
            time_base=Fraction(1, FPS),
        )
        between = self._graph.add("minterpolate", f"fps={fps}:mi_mode=mci")
        source.link_to(between)
        between.link_to(self._graph.add("buffersink"))
        self._graph.configure()
        self._last: Any = None

    def push(self, frame: Any) -> Iterator[Any]:
        """Yields the frames that can be computed with this one."""
        self._last = frame
        self._graph.vpush(frame)
        yield from self._pulled()

    def rest(self) -> Iterator[Any]:
        """Yields the remaining frames; the last one is repeated."""
        for _ in range(_FRAMES_AHEAD):
            following = self._last.reformat(format="yuv420p")
            following.pts += 1
            yield from self.push(following)

    def _pulled(self) -> Iterator[Any]:
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return


def _thumbnail(pixels: np.ndarray) -> bytes:
    height, width = pixels.shape[:2]
    size = width, height
    if width > MAX_THUMBNAIL_WIDTH:
        size = MAX_THUMBNAIL_WIDTH, round(height * MAX_THUMBNAIL_WIDTH / width)
    return encode_jpegs(resize_to(pixels[None], size))[0]
