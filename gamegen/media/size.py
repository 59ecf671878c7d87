"""Sizes of pictures and clips, in pixels and frames, with their limits."""

from __future__ import annotations

from typing import NamedTuple

from gamegen.constants import SIZE_MULTIPLE

MIN_SIDE = 32
MAX_PIXELS = 1280 * 720
"""Of a frame that a model draws."""
MAX_FILE_PIXELS = 3840 * 2160
"""Of a frame of a clip's file."""
MAX_ASPECT = 4
"""Largest ratio of a file's longer side to the shorter one."""


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> Size:
        """The inverse of `str(size)`; raises ValueError for anything but `WIDTHxHEIGHT` in digits."""
        width, x, height = text.partition("x")
        # `isdigit` alone also accepts digits that `int` does not read, such as superscripts.
        if not (x and text.isascii() and width.isdigit() and height.isdigit()):
            raise ValueError(f"size = {text!r}: write WIDTHxHEIGHT, for example 256x144")
        return cls(int(width), int(height))

    @property
    def num_pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


def check_size(width: int, height: int) -> None:
    """Raises ValueError unless both sides are multiples of 16, at least 32, and within `MAX_PIXELS`."""
    for name, value in (("width", width), ("height", height)):
        if value < MIN_SIDE or value % SIZE_MULTIPLE:
            nearest = max(MIN_SIDE, round(value / SIZE_MULTIPLE) * SIZE_MULTIPLE)
            raise ValueError(
                f"{name} = {value}: must be a multiple of {SIZE_MULTIPLE}, for example {nearest}"
            )
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{width}x{height} has {width * height} pixels; the limit is {MAX_PIXELS} (1280x720)"
        )


def check_file_size(width: int, height: int) -> None:
    """Raises ValueError unless a clip's file may have this size: even sides from 32 on, up to 3840x2160, no strip."""
    check_even(width, height)
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{width}x{height}: both sides must be at least {MIN_SIDE}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"{width}x{height} is a strip: the longer side is at most {MAX_ASPECT} times the shorter"
        )
    if width * height > MAX_FILE_PIXELS:
        raise ValueError(
            f"{width}x{height} has {width * height} pixels; the limit is {MAX_FILE_PIXELS} (3840x2160)"
        )


def check_even(width: int, height: int) -> None:
    """Raises ValueError unless both sides are even, as H.264 with halved chroma needs them."""
    if width % 2 or height % 2:
        raise ValueError(f"cannot write {width}x{height} as H.264: use an even width and height")


def check_frames(num_frames: int) -> None:
    """Raises ValueError unless there is at least one frame."""
    if num_frames < 1:
        raise ValueError(f"frames = {num_frames}: a clip has at least 1")
