"""The one reader of videos, for uploads of strangers and for footage: they differ in their limits alone.

Packets are scanned within the limits before any picture is decoded. What is shown, and when, is what the file says:
parts that an edit list cuts off are not, and frames count by their times, however many packets they came in.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from gamegen.constants import FPS
from gamegen.media.container_track import Crop, read_track
from gamegen.media.frames import covering, resize_to
from gamegen.media.kinds import HEAD_BYTES, is_image, other_kind
from gamegen.media.presentation import MAX_PIXEL_ASPECT, check_flat, filtered, picture, shown_size
from gamegen.media.size import Size
from gamegen.media.video_outline import FOOTAGE, WHAT_TO_SEND, VideoLimits, VideoOutline, scan_packets

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read transparency, which FFmpeg's own leave out."""
_SAME_ASPECT = 0.02
"""Largest relative change of the aspect ratio at which a picture of another size still shows the same view."""

VideoSource = Path | str | bytes


@dataclass(frozen=True)
class VideoFile:
    """A video that was opened, scanned, and of which the first frame was decoded.

    `start_s` is the time of that frame: what comes before it in the file cannot be decoded or is not shown.
    """

    source: VideoSource
    limits: VideoLimits
    num_threads: int
    size: Size
    start_s: float
    _outline: VideoOutline
    _crop: Crop | None

    @classmethod
    def open(cls, source: VideoSource, limits: VideoLimits = FOOTAGE, num_threads: int = 1) -> VideoFile:
        """Reads a video's outline and its first frame.

        Raises ValueError, which says what to do, for a file that is no complete video, that is beyond the limits, or
        whose first frame cannot be decoded.
        """
        if limits.max_bytes is not None and isinstance(source, bytes) and len(source) > limits.max_bytes:
            raise ValueError(
                f"the video has {len(source)} bytes, at most {limits.max_bytes} are read: send a smaller one"
            )
        head = _head(source)
        # FFmpeg reads some of them as videos of one frame.
        if kind := "a picture" if is_image(head) else other_kind(head):
            raise ValueError(f"the video is {kind}: {WHAT_TO_SEND}")
        with _opened(source, limits) as (container, stream):
            _check_kind(stream, limits)
            track = read_track(source, container.streams.video.index(stream))
            if track.hindrance is not None:
                raise ValueError(track.hindrance)
            outline = scan_packets(container, stream, limits)
        with _opened(source, limits) as (container, stream):
            first = next(_decoded(container, stream, limits, track.crop), None)
            if first is None:
                raise ValueError(f"the file holds no video frames: {WHAT_TO_SEND}")
            check_flat(first)
            size = shown_size(first, _pixel_aspect(stream))
        if limits.max_pixels is not None and size.num_pixels > limits.max_pixels:
            raise _too_large(size, limits.max_pixels)
        return cls(source, limits, num_threads, size, first.time, outline, track.crop)

    @property
    def num_frames(self) -> int:
        """Number of frames at 24 a second."""
        return max(1, round((self._outline.end_s - self.start_s) * FPS))

    def frames(self, size: tuple[int, int] | None = None, last: int | None = None) -> Iterator[np.ndarray]:
        """Frames at 24 a second, or the `last` of them, uint8 `(H, W, 3)`: those shown in the middle of their times.

        They are scaled and centre-cropped to `size` = (width, height), by default at the size of the video. Raises
        ValueError for what cannot be decoded, and for a picture that changes its shape part-way.
        """
        first = 0 if last is None else max(0, self.num_frames - last)
        # The middle of a frame's duration, since files round times.
        times_s = [self.start_s + (index + 0.5) / FPS for index in range(first, self.num_frames)]
        with _opened(self.source, self.limits) as (container, stream):
            shown = self._shown(container, stream, size, self._outline.entry(times_s[0]))
            yield from _frames_at(shown, times_s)

    def check(self, size: tuple[int, int], last: int) -> None:
        """Decodes what `frames` would, without making pixels of it; raises ValueError as `frames`."""
        covering(self.size, size)
        first_s = self.start_s + (max(0, self.num_frames - last) + 0.5) / FPS
        with _opened(self.source, self.limits) as (container, stream):
            for shown in self._shown(container, stream, size, self._outline.entry(first_s)):
                shown.check()

    def shown_frames(self) -> Iterator[np.ndarray]:
        """All frames as they are stored, whatever their times, uint8 `(H, W, 3)`; raises ValueError as `frames`."""
        with _opened(self.source, self.limits) as (container, stream):
            for shown in self._shown(container, stream, None, 0):
                yield shown.pixels()

    def _shown(
        self, container: Any, stream: Any, size: tuple[int, int] | None, entry: int
    ) -> Iterator[_ShownFrame]:
        aspect = _pixel_aspect(stream)
        for frame in _decoded(container, stream, self.limits, self._crop, entry, self.num_threads):
            yield _ShownFrame(frame, aspect, self.size, size)


@dataclass
class _ShownFrame:
    """A decoded frame, made into pixels when they are asked for."""

    frame: av.VideoFrame
    pixel_aspect: Fraction
    video_size: Size
    size: tuple[int, int] | None

    @property
    def time_s(self) -> float:
        return self.frame.time

    @property
    def shown_size(self) -> Size:
        return shown_size(self.frame, self.pixel_aspect)

    def check(self) -> None:
        """Raises ValueError for a damaged frame, one that is not flat, and one of another shape than the video."""
        if self.frame.is_corrupt:
            raise ValueError(f"the video is damaged at {self.time_s:.2f} s: {WHAT_TO_SEND}")
        check_flat(self.frame)
        (width, height), (old_width, old_height) = self.shown_size, self.video_size
        if abs(width * old_height / (height * old_width) - 1) > _SAME_ASPECT:
            raise ValueError(
                f"the picture changes from {self.video_size} to {self.shown_size} at {self.time_s:.2f} s: "
                "send a part of one shape"
            )

    def pixels(self) -> np.ndarray:
        self.check()
        pixels = picture(self.frame, self.pixel_aspect, self.size)
        return pixels if self.size is not None else resize_to(pixels[None], self.video_size)[0]


@contextmanager
def _opened(source: VideoSource, limits: VideoLimits) -> Iterator[tuple[Any, Any]]:
    """Opens a container and its best video stream; turns errors of FFmpeg into ValueErrors."""
    file: Any = source
    if isinstance(source, bytes):
        file = io.BytesIO(source)
    elif isinstance(source, Path):
        file = str(source)
    options = {"format_whitelist": limits.containers, **_decoder_options(limits)}
    try:
        with av.open(file, "r", options=options, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if (
                stream is None
                or stream.codec_context is None
                or stream.disposition & Disposition.attached_pic
            ):
                raise ValueError(f"the file holds no supported video: {WHAT_TO_SEND}")
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"the video cannot be read ({error.strerror}): {WHAT_TO_SEND}") from error


def _head(source: VideoSource) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    try:
        with Path(source).open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b"?"


def _decoder_options(limits: VideoLimits) -> dict[str, str]:
    return {} if limits.max_pixels is None else {"max_pixels": str(2 * limits.max_pixels)}


def _check_kind(stream: Any, limits: VideoLimits) -> None:
    codec = stream.codec_context
    if limits.codecs is not None and codec.codec.canonical_name not in limits.codecs:
        raise ValueError(f"the video's codec is {codec.codec.canonical_name}: {WHAT_TO_SEND}")
    size = Size(codec.width, codec.height)
    if limits.max_pixels is not None and size.num_pixels > limits.max_pixels:
        raise _too_large(size, limits.max_pixels)
    aspect = _pixel_aspect(stream)
    if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        raise ValueError(f"the video's pixels have the aspect ratio {aspect}: export it with square ones")


def _too_large(size: Size, max_pixels: int) -> ValueError:
    return ValueError(f"the video is {size}, at most {max_pixels} pixels (1920x1080) are read: scale it down")


def _pixel_aspect(stream: Any) -> Fraction:
    return stream.sample_aspect_ratio or Fraction(1)


def _decoded(
    container: Any,
    stream: Any,
    limits: VideoLimits,
    crop: Crop | None,
    entry: int = 0,
    num_threads: int = 1,
) -> Iterator[av.VideoFrame]:
    """Frames in the order of their times, from packet `entry` on, ready to be shown."""
    decoder = _decoder(stream, limits)
    # More threads than one would take cores from running sessions.
    decoder.thread_count = num_threads
    return filtered(_decode(decoder, container.demux(stream), entry), crop)


def _decode(decoder: Any, packets: Iterator[av.Packet], entry: int) -> Iterator[av.VideoFrame]:
    number = -1
    for packet in packets:
        # Numbered as `scan_packets` does.
        number += packet.pts is not None
        if number >= entry or packet.pts is None:
            yield from (frame for frame in decoder.decode(packet) if frame.time is not None)


def _decoder(stream: Any, limits: VideoLimits) -> Any:
    name = _ALPHA_DECODERS.get(stream.codec_context.codec.canonical_name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or tags.get("alpha_mode") != "1":
        return stream.codec_context
    decoder = av.CodecContext.create(name, "r")
    decoder.options = _decoder_options(limits)
    return decoder


def _frames_at(frames: Iterator[_ShownFrame], times_s: list[float]) -> Iterator[np.ndarray]:
    """The picture shown at each of the times, uint8 `(H, W, 3)`."""
    shown = pixels = None
    following = next(frames, None)
    for time_s in times_s:
        while following is not None and following.time_s <= time_s:
            shown, pixels, following = following, None, next(frames, None)
        if shown is None:
            raise ValueError(f"the video is damaged at {time_s:.2f} s: {WHAT_TO_SEND}")
        if pixels is None:
            pixels = shown.pixels()
        yield pixels
