"""How a decoded frame is to be shown: what stands beside its pixels, turned into pixels.

The display matrix turns and mirrors, pixels may not be square, fields are woven into frames, high dynamic range is
mapped to the standard one, and transparency is drawn over black. Frames that ask for none of it are converted to RGB
in one step.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.format import VideoFormat
from av.video.reformatter import ColorTrc

from gamegen.media.container_track import PROJECTED, STEREOSCOPIC, Crop
from gamegen.media.frames import covering, cropped_to
from gamegen.media.size import Size

MAX_PIXEL_ASPECT = 8
"""Largest ratio of a pixel's sides that is believed; stretching by more would take much memory."""
_HIGH_DYNAMIC_RANGE = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
_TO_STANDARD_RANGE = ("scale", "out_transfer=bt709:out_primaries=bt709:intent=saturation")
"""Of the rendering intents this is the one that needs no table of seconds."""
_DEINTERLACING = ("bwdif", "mode=send_frame:deint=interlaced")
_NO_STEREO = (0, 8)
"""FFmpeg's numbers of pictures for one eye, or of a part for each eye of which the decoder shows one."""
_RECTILINEAR = 4
"""FFmpeg's number of the projection of a usual camera."""
_RIGHT_ANGLE = 0.02
"""Largest deviation of a display matrix from a turn by right angles, as a share of its scale."""


class Turn(NamedTuple):
    """A turn by right angles, with or without a mirror: rows and columns are swapped first, then flipped."""

    is_transposed: bool = False
    flips_x: bool = False
    flips_y: bool = False

    def of_size(self, size: tuple[int, int]) -> Size:
        """The (width, height) of a turned picture; the same of one that is turned back."""
        return Size(*(size[::-1] if self.is_transposed else size))

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """A picture `(H, W, 3)`, turned."""
        turned = pixels.swapaxes(0, 1) if self.is_transposed else pixels
        return turned[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1]


def shown_size(frame: av.VideoFrame, pixel_aspect: Fraction) -> Size:
    """The size in pixels at which a frame is shown: upright, with square pixels."""
    return _turn_of(frame).of_size(_square(frame, pixel_aspect))


def check_flat(frame: av.VideoFrame) -> None:
    """Raises ValueError for a frame of a sphere, or one that holds a picture for each eye."""
    for kind, are_flat, hindrance in (
        (Type.STEREO3D, _NO_STEREO, STEREOSCOPIC),
        (Type.SPHERICAL, (_RECTILINEAR,), PROJECTED),
    ):
        facts: Any = frame.side_data.get(kind)  # type: ignore[call-overload]
        if facts is not None and int.from_bytes(bytes(facts)[:4], sys.byteorder) not in are_flat:
            raise ValueError(hindrance)


def picture(frame: av.VideoFrame, pixel_aspect: Fraction, size: tuple[int, int] | None = None) -> np.ndarray:
    """A frame as it is shown, uint8 `(H, W, 3)`; scaled and centre-cropped to `size` = (width, height) if given.

    Raises ValueError for a display matrix other than a turn by right angles, and as `covering`.
    """
    turn = _turn_of(frame)
    square = _square(frame, pixel_aspect)
    if size is None:
        return np.ascontiguousarray(turn.of_pixels(_scaled(frame, square)))
    # Scaled on its way to RGB, which is far quicker than one after the other.
    width, height = covering(square, turn.of_size(size))
    method = "AREA" if width < square[0] else "BICUBIC"
    pixels = _rgb(frame, width=width, height=height, interpolation=method)
    return cropped_to(turn.of_pixels(pixels)[None], size)[0]


def filtered(frames: Iterator[av.VideoFrame], crop: Crop | None) -> Iterator[av.VideoFrame]:
    """Frames after cropping, deinterlacing and mapping to the standard dynamic range, as far as they ask for it.

    The number of frames and their times stay the same.
    """
    chain: _FilterChain | None = None
    is_interlaced = False
    for frame in frames:
        # Fields are made into frames with those before and after, so one chain sees all frames from there on.
        is_interlaced = is_interlaced or frame.interlaced_frame
        filters = _filters_for(frame, crop, is_interlaced)
        if chain is not None and not chain.takes(frame, filters):
            yield from chain.finish()
            chain = None
        if filters and chain is None:
            chain = _FilterChain(frame, filters)
        if chain is None:
            yield frame
        else:
            yield from chain.put(frame)
    if chain is not None:
        yield from chain.finish()


class _FilterChain:
    """Filters of libavfilter, one after another, for frames of one size and format."""

    def __init__(self, frame: av.VideoFrame, filters: tuple[tuple[str, str], ...]) -> None:
        self._key = (*_facts_of(frame), filters)
        width, height, pixel_format, colorspace, color_range = _facts_of(frame)
        self._graph = Graph()
        self._graph.threads = 1
        source = (
            f"video_size={width}x{height}:pix_fmt={pixel_format}:time_base={frame.time_base}"
            f":colorspace={colorspace}:range={color_range}"
        )
        nodes = [self._graph.add("buffer", source), *(self._graph.add(*step) for step in filters)]
        self._graph.link_nodes(*nodes, self._graph.add("buffersink")).configure()

    def takes(self, frame: av.VideoFrame, filters: tuple[tuple[str, str], ...]) -> bool:
        return self._key == (*_facts_of(frame), filters)

    def put(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        self._graph.vpush(frame)
        yield from self._ready()

    def finish(self) -> Iterator[av.VideoFrame]:
        self._graph.vpush(None)
        yield from self._ready()

    def _ready(self) -> Iterator[av.VideoFrame]:
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return


def _facts_of(frame: av.VideoFrame) -> tuple[int, int, str, int, int]:
    return frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range)


def _filters_for(frame: av.VideoFrame, crop: Crop | None, is_interlaced: bool) -> tuple[tuple[str, str], ...]:
    filters = []
    if is_interlaced:
        filters.append(_DEINTERLACING)
    if crop is not None:
        area = f"{crop.width}:{crop.height}:{crop.left}:{crop.top}:exact=1"
        filters.append(("crop", area))
    if frame.color_trc in _HIGH_DYNAMIC_RANGE:
        filters += [_TO_STANDARD_RANGE, ("format", "rgb24")]
    return tuple(filters)


def _turn_of(frame: av.VideoFrame) -> Turn:
    matrix: Any = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if matrix is None:
        return Turn()
    return _turn(bytes(matrix))


@functools.lru_cache(maxsize=16)
def _turn(display_matrix: bytes) -> Turn:
    """The turn of a display matrix: 9 int32, by whose upper left 2 x 2 the place (x, y) of a pixel is multiplied."""
    m = np.frombuffer(display_matrix, np.int32)[:9].reshape(3, 3)[:2, :2] / 2**16
    scale = float(np.abs(m).max())
    is_transposed = abs(m[0, 0]) < abs(m[0, 1])
    across, along = (m[::-1], m) if is_transposed else (m, m[::-1])
    kept, lost = np.abs(np.diagonal(across)), np.abs(np.diagonal(along))
    if not scale or lost.max() > _RIGHT_ANGLE * scale or not kept.min():
        raise ValueError("the video is to be shown askew: export it upright")
    return Turn(bool(is_transposed), bool(across[0, 0] < 0), bool(across[1, 1] < 0))


def _square(frame: av.VideoFrame, pixel_aspect: Fraction) -> tuple[int, int]:
    return max(1, round(frame.width * pixel_aspect)), frame.height


def _scaled(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    if size == (frame.width, frame.height):
        return _rgb(frame)
    return _rgb(frame, width=size[0], height=size[1], interpolation="BICUBIC")


def _rgb(frame: av.VideoFrame, **scaling: Any) -> np.ndarray:
    if not _has_alpha(frame.format.name):
        return frame.to_ndarray(format="rgb24", **scaling)
    rgba = frame.to_ndarray(format="rgba", **scaling)
    return ((rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255).astype(np.uint8)


@functools.cache
def _has_alpha(pixel_format: str) -> bool:
    return any(component.is_alpha for component in VideoFormat(pixel_format).components)
