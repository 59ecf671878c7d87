"""A clip's files, written while its frames come: the MP4 and a small picture, the same bytes every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from gamegen.controls import FPS
from gamegen.video import check_pixels, encode_jpegs, resize_to

FRAME_RATES = (FPS, 30)
"""Frames a second that a clip can be written at; those drawn are 24."""
MAX_THUMBNAIL_WIDTH = 320
# More threads would divide pictures in other ways.
_ENCODER = {"preset": "veryfast", "crf": "18", "threads": "1"}
_CONTAINER = {"movflags": "+faststart", "fflags": "+bitexact"}
_SMPTE170M = 6
"""The matrix by which RGB becomes YUV here; players take another for large pictures that do not tell."""
_FRAMES_AHEAD = 4
"""Frames that interpolation looks ahead: the last one is repeated so often, lest the end be cut off."""


@dataclass(frozen=True)
class ClipFacts:
    """What is known of a clip's file: the SHA-256 of its frames as they were drawn, in hexadecimal, and a JPEG of one
    from its middle."""

    frames_sha256: str
    thumbnail: bytes


class ClipWriter:
    """Writes an H.264 MP4 (yuv420p, its index first) of `num_frames` frames, whose duration no frame rate changes.

        with ClipWriter(path, (160, 96), num_frames=102) as writer:
            for frames in ...:
                writer.add(frames)
        writer.facts

    At another rate than `FPS` the frames between are drawn by motion compensation. Raises ValueError for a rate that
    is not one of `FRAME_RATES`, and for less frames than were announced.
    """

    def __init__(self, path: Path, size: tuple[int, int], num_frames: int, fps: int = FPS) -> None:
        if fps not in FRAME_RATES:
            raise ValueError(f"fps = {fps}: a clip has {' or '.join(map(str, FRAME_RATES))} frames a second")
        self._size, self._num_frames, self._fps = size, num_frames, fps
        self._taken = self._written = 0
        self._digest = hashlib.sha256()
        self._thumbnail = b""
        self._between = _Between(size, fps) if fps != FPS else None
        self._container = av.open(str(path), "w", format="mp4", options=_CONTAINER)
        stream: Any = self._container.add_stream("libx264", rate=fps, options=_ENCODER)
        stream.width, stream.height = size
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, fps)
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = _SMPTE170M
        self._stream = stream

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._container:
            if kind is None:
                self._finish()

    @property
    def facts(self) -> ClipFacts:
        """Known once all is written."""
        return ClipFacts(self._digest.hexdigest(), self._thumbnail)

    def add(self, frames: np.ndarray) -> None:
        """The next frames, uint8 `(T, H, W, 3)`; those beyond the clip's end are left out.

        Raises ValueError for frames of another size.
        """
        check_pixels(frames)
        if frames.shape[1:3] != self._size[::-1]:
            raise ValueError(
                f"frames of {frames.shape[2]}x{frames.shape[1]} for a clip of {self._size[0]}x{self._size[1]}"
            )
        for pixels in np.ascontiguousarray(frames[: self._num_frames - self._taken]):
            self._digest.update(pixels.data)
            if self._taken == self._num_frames // 2:
                self._thumbnail = _thumbnail(pixels)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = self._taken, Fraction(1, FPS)
            self._taken += 1
            for shown in self._between.push(frame) if self._between else [frame]:
                self._encode(shown)

    def _encode(self, frame: Any) -> None:
        # Rounded up: nothing of the last frame's time is lost.
        if self._written < -(-self._num_frames * self._fps // FPS):
            frame.pts, frame.time_base = self._written, Fraction(1, self._fps)
            # Each by its own merits: the encoder, not the filter, says which is a key frame.
            frame.pict_type = av.video.frame.PictureType.NONE
            self._container.mux(self._stream.encode(frame))
            self._written += 1

    def _finish(self) -> None:
        if self._taken < self._num_frames:
            raise ValueError(f"the clip has {self._taken} of {self._num_frames} frames")
        for shown in self._between.rest() if self._between else ():
            self._encode(shown)
        self._container.mux(self._stream.encode())


class _Between:
    """Frames at another rate, in between those that come, by libavfilter."""

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
        """What can be shown once this frame is there."""
        self._last = frame
        self._graph.vpush(frame)
        yield from self._pulled()

    def rest(self) -> Iterator[Any]:
        """What is left after the last, and some more of it."""
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
