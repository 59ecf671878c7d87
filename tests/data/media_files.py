"""Writing of small media files, with all that can stand beside their pixels."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from gamegen.constants import FPS

WIDTH, HEIGHT = 64, 48
CORNERS = np.array([[(200, 60, 50), (60, 180, 70)], [(50, 70, 200), (220, 210, 60)]], np.uint8)
"""Colours of the upper left, upper right, lower left and lower right."""
LUMA = np.array((0.299, 0.587, 0.114))
"""Shares of red, green and blue in the grey of a picture."""
NUM_FRAMES = 12
ALPHA = 215
STILL = (0, 0, 0, 0)
"""A picture is four equal frames."""


@dataclass(frozen=True)
class Sample:
    """A file and what it shows: a size, and the scene's frame for each at 24 a second; or why it is refused.

    Its colours differ by `tolerance` at most; those of high dynamic range, `is_bright`, by any. `refused_upload` is why
    it is refused as an upload alone, where less is read than of footage.
    """

    name: str
    kind: Literal["image", "video"]
    data: bytes
    size: tuple[int, int] = (WIDTH, HEIGHT)
    frames: tuple[int, ...] = STILL
    refused: str = ""
    refused_upload: str = ""
    is_grey: bool = False
    is_bright: bool = False
    tolerance: int = 16


def level(frame: int) -> int:
    """The grey in the middle of a frame of the scene."""
    return 20 + 16 * frame


def scene(frames: Sequence[int] = range(NUM_FRAMES), width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Frames with a colour in each corner and a grey in the middle that tells their number, uint8 `(T, H, W, 3)`."""
    rows = np.arange(height) * 2 // height
    columns = np.arange(width) * 2 // width
    made = np.repeat(CORNERS[rows][:, columns][None], len(frames), 0)
    for picture, number in zip(made, frames, strict=True):
        picture[height // 3 : -(height // 3), width // 3 : -(width // 3)] = level(number)
    return made


def veiled(frames: np.ndarray) -> np.ndarray:
    """Frames `(T, H, W, 4)` that are brighter and a little transparent: over black they are `frames`."""
    alpha = np.full((*frames.shape[:3], 1), ALPHA, np.uint8)
    return np.concatenate([(frames.astype(int) * 255 // ALPHA).clip(0, 255).astype(np.uint8), alpha], -1)


Setup = Callable[[Any], None]


def video(
    frames: np.ndarray,
    codec: str = "libx264",
    container: str = "mp4",
    pixel_format: str = "yuv420p",
    *,
    setup: Setup | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    times_s: Sequence[float] | None = None,
    convert: dict[str, Any] | None = None,
    fps: int = FPS,
) -> bytes:
    """A video of uint8 frames `(T, H, W, 3 or 4)`, shown at `times_s` or `fps` a second."""
    defaults = {
        "libx264": {"crf": "8", "preset": "veryfast"},
        "libx265": {"crf": "8", "preset": "ultrafast", "x265-params": "log-level=none:pools=1"},
        "libvpx-vp9": {"crf": "8", "deadline": "realtime", "cpu-used": "8"},
    }
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=muxer or {}) as output:
        stream: Any = output.add_stream(
            codec, rate=fps, options={**defaults.get(codec, {}), **(options or {})}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        if times_s is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if setup:
            setup(stream)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[-1] == 4 else "rgb24")
            if convert:
                frame = frame.reformat(format=pixel_format, **convert)
            frame.pts, frame.time_base = index, Fraction(1, fps)
            if times_s is not None:
                frame.pts, frame.time_base = round(times_s[index] * 1000), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def remuxed(data: bytes, container: str, first: int, start: int) -> bytes:
    """The packets of a video from the key frame at `first` on, with frame `start` at time zero, not encoded again."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=container) as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        step = round(1 / (FPS * stream.time_base))
        times = sorted(p.pts for p in source.demux(stream) if p.pts is not None)
        source.seek(0)
        is_begun = False
        for packet in source.demux(stream):
            if packet.pts is None:
                continue
            number = round((packet.pts - times[0]) / step)
            is_begun = is_begun or (packet.is_keyframe and number >= first)
            if is_begun:
                offset = times[0] + start * step
                packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
                output.mux(packet)
    return file.getvalue()


def picture(
    format: str = "PNG", mode: str = "RGB", pixels: np.ndarray | None = None, **options: Any
) -> bytes:
    """A picture of the scene's first frame, or of `pixels`."""
    image = Image.fromarray(scene([0])[0] if pixels is None else pixels)
    return saved(image.convert(mode) if image.mode != mode else image, format, **options)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    quality = {"quality": 95} if format in ("JPEG", "WEBP") else {}
    image.save(file, format, **{**quality, **options})
    return file.getvalue()


def colours(matrix: int, color_range: int, primaries: int = 2, transfer: int = 2) -> Setup:
    """Sets the numbers of ITU-T H.273 and FFmpeg's colour range: 1 limited, 2 full."""

    def setup(stream: Any) -> None:
        codec = stream.codec_context
        codec.colorspace, codec.color_range = matrix, color_range
        codec.color_primaries, codec.color_trc = primaries, transfer

    return setup


def with_clean_aperture(mp4: bytes, width: int, height: int, right: int, down: int) -> bytes:
    """An MP4, its index last, whose picture is cropped by a `clap` box; offsets are from centre to centre."""
    fields = (width, 1, height, 1, right, 1, down, 1)
    return with_boxes(mp4, box(b"clap", struct.pack(">8i", *fields)))


def box(name: bytes, *parts: bytes) -> bytes:
    """A box of an MP4 file with its length and name."""
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), name) + content


DESCRIPTION = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
"""The boxes around the sample descriptions of a track."""


def with_boxes(
    mp4: bytes, boxes: bytes, around: Sequence[bytes] = (*DESCRIPTION, b"avc1"), before: bytes = b"avcC"
) -> bytes:
    """An MP4, its index last, with more boxes before another one, in those around it from the outermost on."""
    place = mp4.index(before) - 4
    grown = bytearray(mp4[:place] + boxes + mp4[place:])
    for name in around:
        at = grown.index(name, grown.index(b"moov")) - 4
        struct.pack_into(">I", grown, at, struct.unpack_from(">I", grown, at)[0] + len(boxes))
    return bytes(grown)


def two_tracks(codec: str, is_cover: bool) -> bytes:
    """A Matroska file with a track of another shape first, which is a cover picture or not the one to show."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        other: Any = output.add_stream(codec, rate=FPS)
        other.width, other.height = HEIGHT, WIDTH
        other.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        other.disposition = Disposition.attached_pic if is_cover else Disposition(0)
        shown: Any = output.add_stream("libx264", rate=FPS, options={"crf": "8", "preset": "veryfast"})
        shown.width, shown.height, shown.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        shown.disposition = Disposition.default
        for stream, frames in (
            (other, scene([0] if is_cover else [3] * 12, HEIGHT, WIDTH)),
            (shown, scene()),
        ):
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, FPS)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return file.getvalue()


def with_pixel_crop(frames: np.ndarray) -> bytes:
    """A Matroska file of frames 96 wide that shows what is left without 24 columns at the left and 8 at the right."""
    data = bytearray(video(frames, container="matroska"))
    place = data.index(bytes([0xE0, 0x8A, 0xB0, 0x81, 96]))
    # The element Video has 10 bytes, another of 4 and 11 of padding follow: 8 of those become its own.
    data[place + 1] += 8
    behind = data[place + 12 : place + 16]
    crop = bytes([0x54, 0xCC, 0x81, 24, 0x54, 0xDD, 0x81, 8])
    data[place + 12 : place + 27] = crop + behind + bytes([0xEC, 0x81, 0])
    return bytes(data)


def joined(first: bytes, second: bytes) -> bytes:
    """A Matroska file of two H.264 videos one after another, each with its own parameter sets in the stream."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        copy: Any = None
        for part, data in enumerate((first, second)):
            with av.open(io.BytesIO(data)) as source:
                stream = source.streams.video[0]
                if copy is None:
                    copy = output.add_stream_from_template(stream)
                to_annex_b = av.BitStreamFilterContext("h264_mp4toannexb", stream)
                for packet in source.demux(stream):
                    for plain in to_annex_b.filter(packet if packet.size else None):
                        shift = part * round(8 / FPS / plain.time_base)
                        plain.pts, plain.dts, plain.stream = plain.pts + shift, plain.dts + shift, copy
                        output.mux(plain)
    return file.getvalue()
