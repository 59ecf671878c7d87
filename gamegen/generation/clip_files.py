"""Writer of a clip's MP4 and thumbnail, whose bytes depend on the frames alone.

Frames come as they are drawn, 24 a second at the drawn size; those between are made and all are brought to the file's
size here, as they come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from gamegen.constants import FPS
from gamegen.media.enlarging import bring_to
from gamegen.media.frames import check_pixels, resize_to
from gamegen.media.images import encode_jpegs
from gamegen.media.motion_interpolation import FrameInterpolator
from gamegen.media.mp4 import Mp4Writer
from gamegen.media.size import Size, check_even

FRAME_RATES = (FPS, 30, 60)
"""Frame rates that a clip can be written at; frames are drawn at 24 a second."""
MAX_THUMBNAIL_WIDTH = 320
_SMPTE170M = 6
"""Color matrix of the conversion to YUV; players assume another for large frames without this tag."""


@dataclass(frozen=True)
class ClipFacts:
    """SHA-256 of a clip's raw frames as they were drawn, in hexadecimal, and a JPEG thumbnail of its middle frame."""

    frames_sha256: str
    thumbnail: bytes


class ClipWriter:
    """Writes an H.264 MP4 (yuv420p, its index first) of `num_frames` drawn frames, which last 1/24 s each.

        with ClipWriter.open(path, (160, 96), num_frames=102) as writer:
            for frames in ...:
                writer.add(frames)
        writer.facts

    At another rate than `FPS` the frames between are made by motion interpolation, see `FrameInterpolator`.
    """

    def __init__(self, mp4: Mp4Writer, size: Size, drawn: Size, num_frames: int, fps: int) -> None:
        self._mp4 = mp4
        self._size, self._drawn = size, drawn
        self._num_frames = num_frames
        # Rounded up: nothing of the last frame's time is lost.
        self._num_written = -(-num_frames * fps // FPS)
        self._num_taken = 0
        self._digest = hashlib.sha256()
        self._thumbnail = b""
        self._interpolator = FrameInterpolator(FPS, fps) if fps != FPS else None

    @classmethod
    @contextmanager
    def open(
        cls,
        path: Path,
        size: tuple[int, int],
        num_frames: int,
        fps: int = FPS,
        drawn: tuple[int, int] | None = None,
    ) -> Iterator[ClipWriter]:
        """A writer of a clip of `size` = (width, height); its file is there once the `with` block ends.

        Its frames come in the size `drawn`, by default that one. Raises ValueError for a rate that is not one of
        `FRAME_RATES`, an odd width or height, and less frames than were announced.
        """
        check_fps(fps)
        check_even(*size)
        # One thread: more would divide pictures in other ways.
        with Mp4Writer.open(path, size, fps=fps, colorspace=_SMPTE170M, is_bitexact=True) as mp4:
            writer = cls(mp4, Size(*size), Size(*(drawn or size)), num_frames, fps)
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
        if frames.shape[1:3] != (self._drawn.height, self._drawn.width):
            raise ValueError(
                f"frames of {frames.shape[2]}x{frames.shape[1]} for a clip that is drawn at {self._drawn}"
            )
        for pixels in np.ascontiguousarray(frames[: self._num_frames - self._num_taken]):
            self._digest.update(pixels.data)
            if self._num_taken == self._num_frames // 2:
                self._thumbnail = _thumbnail(pixels, self._size)
            self._num_taken += 1
            for shown in self._interpolator.push(pixels) if self._interpolator else [pixels]:
                self._encode(shown)

    def _encode(self, pixels: np.ndarray) -> None:
        if self._mp4.num_frames < self._num_written:
            sized = bring_to(pixels[None], self._size)[0]
            self._mp4.write_picture(
                av.VideoFrame.from_ndarray(sized, format="rgb24").reformat(format="yuv420p")
            )

    def _finish(self) -> None:
        if self._num_taken < self._num_frames:
            raise ValueError(f"the clip has {self._num_taken} of {self._num_frames} frames")
        for shown in self._interpolator.rest(self._num_written) if self._interpolator else ():
            self._encode(shown)


def check_fps(fps: int) -> None:
    """Raises ValueError for a rate that is not one of `FRAME_RATES`."""
    if fps not in FRAME_RATES:
        raise ValueError(f"fps = {fps}: a clip has {', '.join(map(str, FRAME_RATES))} frames a second")


def _thumbnail(pixels: np.ndarray, size: Size) -> bytes:
    if size.width > MAX_THUMBNAIL_WIDTH:
        size = Size(MAX_THUMBNAIL_WIDTH, max(1, round(size.height * MAX_THUMBNAIL_WIDTH / size.width)))
    return encode_jpegs(resize_to(pixels[None], size))[0]
