"""Self-contained HTML pages: a document, pictures inside it, and the axes of SVG charts."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


def document(*, title: str, style: str, body: str, refresh_s: int | None = None) -> str:
    """A whole HTML page that needs no other file; with `refresh_s` a browser loads it again after as many seconds."""
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">{refresh}
<title>{html.escape(title)}</title><style>{style}</style></head><body>
{body}
</body></html>
"""


def jpeg(picture: np.ndarray) -> bytes:
    """JPEG of a picture, uint8 `(H, W, 3)`."""
    from PIL import Image

    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, "JPEG", quality=85)
    return memory.getvalue()


def jpeg_url(data: bytes) -> str:
    """Data URL of a JPEG, for the `src` of an image."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Linear axes of an SVG chart of `width` by `height` with margins, over `x_range` and `y_range`.

    A range of no width puts its values in the middle; values beyond `y_range` are drawn at its end.
    """

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    @property
    def inner_right(self) -> int:
        """Horizontal position of the plot's right edge."""
        return self.width - self.right

    @property
    def base(self) -> int:
        """Vertical position of the plot's lower edge."""
        return self.height - self.bottom

    def x(self, value: float) -> float:
        """Horizontal position of a value."""
        low, high = self.x_range
        share = (value - low) / (high - low) if high > low else 0.5
        return self.left + share * (self.inner_right - self.left)

    def y(self, value: float) -> float:
        """Vertical position of a value."""
        low, high = self.y_range
        share = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5
        return self.top + (1 - share) * (self.base - self.top)

    def points(self, values: Iterable[tuple[float, float]]) -> list[str]:
        """`x,y` of (x, y) values, for a polyline or polygon."""
        return [f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in values]
