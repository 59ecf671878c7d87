"""Pixels in and out: MP4 and JPEG writing, image reading with limits, and resizing.

Frames are `uint8 (T, H, W, 3)` RGB everywhere.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from gamegen.controls import FPS

JPEG_QUALITY = 85
MAX_IMAGE_BYTES = 8 * 1024 * 1024
MAX_IMAGE_PIXELS = 4096 * 4096

MAX_STRETCH = 10
"""By how much longer than the picture that is wanted one may be, when both are equally wide or high."""
MAX_FRAMES = 102
"""Frames of the longest clip the models draw at once."""
SIZE_MULTIPLE = 16
"""Pixels under one token: 8 by the autoencoder, 2 by the transformer's patches."""
MAX_PIXELS = 1280 * 720


def write_mp4(path: str | Path, frames: np.ndarray, fps: int = FPS, crf: int = 18) -> None:
    """Writes `uint8 (T, H, W, 3)` frames as an H.264 (yuv420p) MP4, its index first so that it streams.

    Raises ValueError for another dtype or shape, no frames, or an odd width or height.
    """
    check_pixels(frames)
    height, width = frames.shape[1:3]
    if width % 2 or height % 2:
        raise ValueError(f"cannot write {width}x{height} as H.264: use an even width and height")
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.options = {"preset": "veryfast", "crf": str(crf)}
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_contact_sheet(path: str | Path, frames: np.ndarray, columns: int = 4, rows: int = 2) -> None:
    """Writes frames spread evenly over a video, reading order, as one PNG; raises ValueError as `write_mp4`."""
    check_pixels(frames)
    chosen = frames[sheet_frames(len(frames), columns * rows)]
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in np.split(chosen, rows)])
    Image.fromarray(sheet).save(path)


def sheet_frames(num_frames: int, count: int = 8) -> np.ndarray:
    """Which frames of a video a contact sheet of `count` shows, int `(count,)`."""
    return np.linspace(0, num_frames - 1, count).round().astype(int)


def write_by_suffix(path: Path, frames: np.ndarray) -> None:
    """An MP4, or a contact sheet if `path` ends in `.png`; raises ValueError for another ending."""
    check_suffix(path)
    (write_contact_sheet if path.suffix == ".png" else write_mp4)(path, frames)


def check_suffix(path: Path) -> None:
    """Raises ValueError unless `write_by_suffix` can write `path`."""
    if path.suffix not in (".mp4", ".png"):
        raise ValueError(f"cannot write {path}: end it in .mp4 for a video or .png for a contact sheet")


def mp4_bytes(frames: np.ndarray, fps: int = FPS, crf: int = 18) -> bytes:
    """The MP4 of `write_mp4`, in memory."""
    # The muxer reopens its output to move the index to the front, which only a real file allows.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, frames, fps, crf)
        return path.read_bytes()


def read_mp4(path: str | Path | io.BytesIO, max_frames: int | None = None) -> np.ndarray:
    """All frames of a video (or the first `max_frames`) as `uint8 (T, H, W, 3)`.

    Raises ValueError naming the file when it holds no readable video.
    """
    frames = list(iter_mp4(path, max_frames))
    if not frames:
        raise ValueError(f"{path}: holds no video frames")
    return np.stack(frames)


def iter_mp4(path: str | Path | io.BytesIO, max_frames: int | None = None) -> Iterator[np.ndarray]:
    """Frames of a video one by one, `uint8 (H, W, 3)`. Raises ValueError for an unreadable file."""
    try:
        with av.open(path if isinstance(path, io.BytesIO) else str(path), "r") as container:
            if not container.streams.video:
                raise ValueError(f"{path}: holds no video stream")
            for index, frame in enumerate(container.decode(video=0)):
                if max_frames is not None and index >= max_frames:
                    return
                yield frame.to_ndarray(format="rgb24")
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: cannot be read as a video ({error})") from error


def encode_jpegs(frames: np.ndarray, quality: int = JPEG_QUALITY) -> list[bytes]:
    """One JPEG for each frame of `uint8 (T, H, W, 3)`."""
    check_pixels(frames)
    return [
        simplejpeg.encode_jpeg(np.ascontiguousarray(f), quality=quality, colorsubsampling="420")
        for f in frames
    ]


def decode_image(
    data: bytes, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_IMAGE_PIXELS
) -> np.ndarray:
    """A PNG, JPEG or WebP file's pixels, `uint8 (H, W, 3)`; transparency is drawn over black.

    The size is read from the header and checked before any pixel is decoded. Raises ValueError with what to
    do for a file that is too large, has too many pixels or is not a readable image.
    """
    if len(data) > max_bytes:
        raise ValueError(f"the image has {len(data)} bytes, at most {max_bytes} are read: send a smaller one")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ValueError(
                    f"the image is {width}x{height}, at most {max_pixels} pixels are read: scale it down"
                )
            rgba = image.convert("RGBA")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError("the image cannot be read: send a complete PNG, JPEG or WebP file") from error
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.array(flat.convert("RGB"))


def resize_to(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames `uint8 (T, H, W, 3)` scaled and centre-cropped to `size` = (width, height), aspect kept.

    Raises ValueError as `covering`.
    """
    check_pixels(frames)
    old_height, old_width = frames.shape[1:3]
    if (old_width, old_height) == size:
        return frames
    scaled = covering((old_width, old_height), size)
    # Area averaging keeps a shrunk picture free of moire; enlarging wants a smooth interpolation instead.
    method = cv2.INTER_AREA if scaled[0] < old_width else cv2.INTER_CUBIC
    return cropped_to(np.stack([cv2.resize(f, scaled, interpolation=method) for f in frames]), size)


def covering(old: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture of size `old` that is scaled until it covers `size`, aspect kept.

    Raises ValueError for a strip, of which nearly nothing would be left and which would take much memory.
    """
    scale = max(size[0] / old[0], size[1] / old[1])
    scaled = max(size[0], round(old[0] * scale)), max(size[1], round(old[1] * scale))
    if scaled[0] > MAX_STRETCH * size[0] or scaled[1] > MAX_STRETCH * size[1]:
        raise ValueError(f"a picture of {old[0]}x{old[1]} is a strip: crop it to about {size[0]}x{size[1]}")
    return scaled


def cropped_to(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The centre of frames `(T, H, W, 3)` that are not smaller than `size` = (width, height)."""
    width, height = size
    left, top = (frames.shape[2] - width) // 2, (frames.shape[1] - height) // 2
    return np.ascontiguousarray(frames[:, top : top + height, left : left + width])


def parse_size(text: str) -> tuple[int, int]:
    """`160x96` as (160, 96); raises ValueError."""
    width, x, height = text.partition("x")
    if not (x and width.isdigit() and height.isdigit()):
        raise ValueError(f"size = {text!r}: write WIDTHxHEIGHT, for example 160x96")
    return int(width), int(height)


def check_frames(num_frames: int) -> None:
    """Raises ValueError unless 1 <= num_frames <= `MAX_FRAMES`."""
    if not 1 <= num_frames <= MAX_FRAMES:
        raise ValueError(f"frames = {num_frames}: a clip has 1 to {MAX_FRAMES} frames")


def check_size(width: int, height: int) -> None:
    """Raises ValueError unless both sides are multiples of 16, at least 32, and within `MAX_PIXELS`."""
    for name, value in (("width", width), ("height", height)):
        if value < 32 or value % SIZE_MULTIPLE:
            nearest = max(32, round(value / SIZE_MULTIPLE) * SIZE_MULTIPLE)
            raise ValueError(
                f"{name} = {value}: must be a multiple of {SIZE_MULTIPLE}, for example {nearest}"
            )
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{width}x{height} has {width * height} pixels; the limit is {MAX_PIXELS} (1280x720)"
        )


def check_pixels(frames: np.ndarray) -> None:
    """Raises ValueError unless there are frames, `uint8 (T, H, W, 3)`."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    if not len(frames):
        raise ValueError("expected at least one frame, got none")
