"""Size at which a clip is drawn: models draw well at about the size they were trained at, files may be larger."""

from __future__ import annotations

from gamegen.constants import SIZE_MULTIPLE
from gamegen.media.size import MIN_SIDE, Size

_MOST, _LEAST = 1.1, 0.75
"""Pixels at which a model draws, as shares of those of its own size."""
_KEPT_WELL = 0.92
"""Share of the picture from which on the model's own size is taken, upright if need be: for that one graphs are
compiled."""


def drawn_size(asked: Size, own: Size) -> Size:
    """The size at which a model of size `own` draws a clip of `asked`: that one, unless it is larger or odd.

    Otherwise one of about as many pixels as `own`, of whose frames little is cropped; sides are multiples of 16.
    """
    is_drawable = all(side >= MIN_SIDE and side % SIZE_MULTIPLE == 0 for side in asked)
    if is_drawable and asked.num_pixels <= _MOST * own.num_pixels:
        return asked
    for size in (own, Size(own.height, own.width)):
        if _kept(size, asked) >= _KEPT_WELL:
            return size
    sides = range(MIN_SIDE, int(_MOST * own.num_pixels) // MIN_SIDE + 1, SIZE_MULTIPLE)
    limits = _LEAST * own.num_pixels, _MOST * own.num_pixels
    sizes = [Size(w, h) for w in sides for h in sides if limits[0] <= w * h <= limits[1]]
    return max([*sizes, own], key=lambda size: (round(_kept(size, asked), 6), size.num_pixels))


def cropped_size(drawn: Size, across: int, down: int) -> Size:
    """The largest even size of this aspect ratio, up to rounding, that `drawn` has room for."""
    width = min(drawn.width, drawn.height * across / down)
    return Size(round(width / 2) * 2, round(width * down / across / 2) * 2)


def _kept(drawn: Size, asked: Size) -> float:
    """The share of a drawn picture that is left when it is cropped to the aspect ratio of `asked`."""
    ratio = drawn.width * asked.height / (drawn.height * asked.width)
    return min(ratio, 1 / ratio)
