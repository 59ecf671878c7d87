"""Pictures of the generated worlds: skies, ground, trees and precipitation, all drawn from seeds."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

SKY_SIZE = (512, 200)
TREE_SIZE = (96, 144)
FLAT_SIZE = 64

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Sky:
    """A vertical gradient with clouds that cover the share `cover` of it, and `stars` bright dots."""

    top: Colour
    bottom: Colour
    cover: float
    cloud: Colour
    stars: int = 0


SKIES = {
    "GGSKYDAY": Sky((60, 130, 220), (170, 210, 245), 0.45, (250, 250, 255)),
    "GGSKYDSK": Sky((70, 40, 110), (250, 140, 70), 0.45, (220, 110, 90)),
    "GGSKYDWN": Sky((110, 130, 190), (250, 190, 170), 0.4, (250, 200, 190)),
    "GGSKYNIT": Sky((6, 8, 22), (20, 24, 48), 0.3, (24, 28, 48), stars=260),
    "GGSKYGRY": Sky((90, 98, 106), (140, 146, 152), 0.7, (115, 120, 126)),
    "GGSKYDRK": Sky((22, 25, 32), (38, 42, 52), 0.7, (28, 31, 38)),
    "GGSKYFOG": Sky((168, 170, 174), (176, 178, 182), 0.0, (0, 0, 0)),
    "GGSKYDST": Sky((176, 130, 84), (206, 158, 104), 0.3, (190, 142, 92)),
}
GROUND = {
    "GGGRASS": (74, 118, 46),
    "GGLEAVES": (66, 84, 36),
    "GGNEEDLE": (70, 72, 44),
    "GGSAND": (214, 170, 110),
    "GGSNOW": (232, 236, 246),
    "GGASH": (104, 92, 82),
}


def png(image: Image.Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _noise(height: int, width: int, rng: np.random.Generator, cell: int) -> np.ndarray:
    """Smooth noise in 0..1, `(height, width)`, with features of about `cell` pixels."""
    coarse = rng.random((max(2, height // cell), max(2, width // cell)))
    image = Image.fromarray((coarse * 255).astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), float) / 255


def draw_sky(sky: Sky, seed: int) -> Image.Image:
    """A sky picture of `SKY_SIZE`."""
    rng = np.random.default_rng(seed)
    width, height = SKY_SIZE
    share = np.linspace(0, 1, height)[:, None, None]
    picture = np.repeat(np.array(sky.top) * (1 - share) + np.array(sky.bottom) * share, width, 1)
    clouds = sum(w * _noise(height, width, rng, cell) for w, cell in ((0.5, 40), (0.3, 16), (0.2, 6)))
    mask = np.clip((clouds - (1 - sky.cover)) * 5, 0, 1)[..., None]
    picture = picture * (1 - mask) + np.array(sky.cloud) * mask
    for _ in range(sky.stars):
        picture[rng.integers(height), rng.integers(width)] = 235
    return Image.fromarray(picture.astype(np.uint8))


def draw_ground(colour: Colour, seed: int) -> Image.Image:
    """A ground tile of `FLAT_SIZE` squared."""
    rng = np.random.default_rng(seed)
    shade = 0.78 + 0.16 * rng.random((FLAT_SIZE, FLAT_SIZE)) + 0.22 * _noise(FLAT_SIZE, FLAT_SIZE, rng, 8)
    picture = np.array(colour) * shade[..., None]
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _leaf_tree(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    draw.rectangle((43, 85, 53, 143), fill=(92, 64, 36, 255))
    for _ in range(160):
        x, y, radius, green = rng.gauss(48, 17), rng.gauss(50, 20), rng.uniform(5, 10), rng.randint(70, 140)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=(green // 2, green, green // 3, 255))


def _pine(draw: ImageDraw.ImageDraw, rng: Random, snow: bool = False) -> None:
    draw.rectangle((44, 110, 52, 143), fill=(80, 55, 35, 255))
    for layer in range(6):
        y, half, green = 8 + layer * 20, 10 + layer * 6, rng.randint(55, 95)
        draw.polygon(
            [(48, y - 8), (48 - half, y + 22), (48 + half, y + 22)], fill=(green // 3, green, green // 2, 255)
        )
        if snow:
            cap = half // 2
            draw.polygon([(48, y - 8), (48 - cap, y + 8), (48 + cap, y + 8)], fill=(236, 240, 248, 255))


def _snowy_pine(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    _pine(draw, rng, snow=True)


def _cactus(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    green = (50, rng.randint(105, 130), 50, 255)
    draw.rounded_rectangle((40, 40, 56, 143), 8, fill=green)
    for box in ((18, 60, 30, 100), (66, 50, 78, 90)):
        draw.rounded_rectangle(box, 6, fill=green)
    draw.rectangle((18, 90, 42, 100), fill=green)
    draw.rectangle((54, 80, 78, 90), fill=green)


def _dead_tree(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    bark = (70, 55, 45, 255)
    for _ in range(14):
        draw.line((48, 90, 48 + rng.gauss(0, 22), 20 + rng.random() * 50), fill=bark, width=3)
    draw.rectangle((44, 80, 52, 143), fill=bark)


TREES: dict[str, Callable[[ImageDraw.ImageDraw, Random], None]] = {
    "GGTA": _leaf_tree,
    "GGTB": _pine,
    "GGTC": _snowy_pine,
    "GGTD": _cactus,
    "GGTE": _dead_tree,
}
"""Sprite name of each kind of tree and how it is drawn."""


def draw_tree(sprite: str, seed: int) -> Image.Image:
    """A tree of `TREE_SIZE` on a transparent ground."""
    image = Image.new("RGBA", TREE_SIZE, (0, 0, 0, 0))
    TREES[sprite](ImageDraw.Draw(image), Random(seed))
    return image


def draw_drop() -> Image.Image:
    """A streak of rain."""
    return Image.new("RGBA", (2, 22), (190, 205, 230, 255))


def draw_flake() -> Image.Image:
    """A flake of snow or, tinted by the world, a grain of dust."""
    return Image.new("RGBA", (4, 4), (255, 255, 255, 255))


def draw_grain() -> Image.Image:
    """A grain of dust."""
    return Image.new("RGBA", (4, 4), (204, 158, 104, 255))
