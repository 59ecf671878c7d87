"""Writing and reading MP4 files with H.264 (PyAV); frames are `uint8 (T, H, W, 3)` RGB.

Codecs take one thread unless they are told otherwise: most callers run beside others, one a core.
"""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gamegen.constants import FPS
from gamegen.files import write_atomically
from gamegen.media.frames import check_pixels
from gamegen.media.size import Size, check_even

if TYPE_CHECKING:
    from gamegen.media.video_file import VideoSource

try:
    import av
except ImportError:  # A machine that only trains reads videos with OpenCV.
    av = None  # type: ignore[assignment]

ALL_CORES = 0
"""A number of threads: as many as the machine has cores."""


class Mp4Writer:
    """Writes an H.264 MP4 frame by frame; the file appears when the `with` block ends without an error.

    with Mp4Writer.open(path, Size(160, 96), crf=20) as writer:
        for frame in frames:
            writer.write(frame)
    """

    def __init__(self, container: Any, stream: Any, fps: int) -> None:
        self._container = container
        self._stream = stream
        self._frame_s = Fraction(1, fps)
        self.num_frames = 0

    @classmethod
    @contextmanager
    def open(
        cls,
        target: Path | io.BytesIO,
        size: tuple[int, int],
        *,
        fps: int = FPS,
        crf: int = 18,
        pixel_format: str = "yuv420p",
        colorspace: int | None = None,
        num_threads: int = 1,
        is_bitexact: bool = False,
        x264: Mapping[str, str] | None = None,
    ) -> Iterator[Mp4Writer]:
        """Opens a writer of frames of `size` = (width, height) to a file or a buffer.

        A file's index comes first, so that it streams; a buffer's comes last.

        `crf` is x264's quality (lower is better, 14 is close to transparent), `x264` has further options of that
        encoder, `is_bitexact` leaves out what names the library that wrote the file. Raises ValueError for an odd width
        or height with halved chroma (yuv420p).
        """
        if pixel_format == "yuv420p":
            check_even(*size)
        muxer = {"fflags": "+bitexact"} if is_bitexact else {}
        with ExitStack() as closing:
            file: Any = target
            if isinstance(target, Path):
                file = str(closing.enter_context(write_atomically(target)))
                muxer["movflags"] = "+faststart"
            container = closing.enter_context(av.open(file, "w", format="mp4", options=muxer))
            # With x264's macroblock tree the same frames give other bytes, depending on what was in memory before.
            options = {"preset": "veryfast", "crf": str(crf), "x264-params": "mbtree=0", **(x264 or {})}
            stream: Any = container.add_stream("libx264", rate=fps, options=options)
            stream.width, stream.height = size
            stream.pix_fmt = pixel_format
            stream.time_base = Fraction(1, fps)
            stream.codec_context.thread_count = num_threads
            if colorspace is not None:
                stream.codec_context.colorspace = colorspace
            yield cls(container, stream, fps)
            container.mux(stream.encode())

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame, uint8 `(height, width, 3)` RGB."""
        self.write_picture(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))

    def write_picture(self, picture: av.VideoFrame) -> None:
        """Adds a frame in any pixel format; its time is set here."""
        picture.pts, picture.time_base = self.num_frames, self._frame_s
        self._container.mux(self._stream.encode(picture))
        self.num_frames += 1


def write_mp4(path: Path, frames: np.ndarray, fps: int = FPS, crf: int = 18) -> None:
    """Writes `uint8 (T, H, W, 3)` frames as an H.264 (yuv420p) MP4, its index first so that it streams.

    Raises ValueError for another dtype or shape, no frames, or an odd width or height.
    """
    check_pixels(frames)
    with Mp4Writer.open(path, _size_of(frames), fps=fps, crf=crf, num_threads=ALL_CORES) as writer:
        for frame in frames:
            writer.write(frame)


def encode_mp4(
    frames: np.ndarray,
    fps: int = FPS,
    *,
    crf: int = 14,
    keyframe_interval: int = 48,
    pixel_format: str = "yuv420p",
) -> bytes:
    """An MP4 in memory (H.264, no B-frames) of `uint8 (T, H, W, 3)` frames, its index last.

    A key frame at least every `keyframe_interval` frames lets a reader start anywhere. Raises ValueError as
    `write_mp4`.
    """
    check_pixels(frames)
    buffer = io.BytesIO()
    with Mp4Writer.open(
        buffer,
        _size_of(frames),
        fps=fps,
        crf=crf,
        pixel_format=pixel_format,
        x264={"bf": "0", "g": str(keyframe_interval)},
    ) as writer:
        for frame in frames:
            writer.write(frame)
    return buffer.getvalue()


def read_mp4(source: VideoSource, max_frames: int | None = None) -> np.ndarray:
    """All frames of a video (or its first `max_frames`) as they are stored, `uint8 (T, H, W, 3)`.

    Of footage the frames count at 24 a second, which `gamegen.media.footage` reads. Raises ValueError, with the reason,
    for anything that is not a readable video of at least one frame, and for one whose shape changes.
    """
    frames = list(itertools.islice(_stored_frames(source), max_frames))
    if not frames:
        raise ValueError(f"{cannot_decode(source)}: it holds no frame")
    return np.stack(frames)


def _stored_frames(source: VideoSource) -> Iterator[np.ndarray]:
    """Frames one by one. Without PyAV it is OpenCV that decodes: its colours differ by a few steps of 8 bits."""
    if av is None:
        yield from _iter_by_opencv(source)
        return
    from gamegen.media.video_file import VideoFile

    try:
        yield from VideoFile.open(source).shown_frames()
    except ValueError as error:
        raise ValueError(f"{cannot_decode(source)}: {error}") from error


def _iter_by_opencv(source: VideoSource) -> Iterator[np.ndarray]:
    """Stored frames, decoded by OpenCV, which reads files only."""
    import cv2

    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        name = str(source)
        if isinstance(source, bytes):
            file.write(source)
            file.flush()
            name = file.name
        video = cv2.VideoCapture(name)
        try:
            if not video.isOpened():
                raise ValueError(f"{cannot_decode(source)}: OpenCV cannot read it as a video")
            while True:
                is_there, frame = video.read()
                if not is_there:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            video.release()


def cannot_decode(source: VideoSource) -> str:
    """The beginning of an error about a video, with its file if it is one."""
    return "cannot decode the clip" + (f" {source}" if isinstance(source, Path | str) else "")


def _size_of(frames: np.ndarray) -> Size:
    return Size(frames.shape[2], frames.shape[1])
