"""Named choices that an order may make: words for a style, and picture sizes."""

from __future__ import annotations

from gamegen.video import SIZE_MULTIPLE

STYLES: dict[str, str] = {
    "cinematic": "cinematic lighting, shallow depth of field, film grain",
    "dreamy": "soft light, pastel colours, haze",
    "gloomy": "overcast sky, fog, muted colours",
    "noir": "black and white, hard shadows, night",
    "pixel-art": "pixel art, few colours, sharp edges",
    "vivid": "bright sunlight, saturated colours, clear sky",
    "watercolour": "watercolour painting, soft edges, paper texture",
}
"""What each style preset adds to the prompt."""

RESOLUTIONS: dict[str, tuple[int, int]] = {"nano": (160, 96), "480p": (848, 480), "720p": (1280, 720)}
"""(width, height) in pixels, when no aspect ratio is given."""
ASPECT_RATIOS: dict[str, tuple[int, int]] = {
    "16:9": (16, 9),
    "9:16": (9, 16),
    "5:3": (5, 3),
    "4:3": (4, 3),
    "3:4": (3, 4),
    "1:1": (1, 1),
}


def styled(prompt: str, style: str | None) -> str:
    """The prompt with its style's words."""
    return f"{prompt}, {STYLES[style]}" if style else prompt


def size_of(resolution: str, aspect_ratio: str | None) -> tuple[int, int]:
    """(width, height) in pixels: the shorter side is the resolution's, the other the nearest that models draw."""
    width, height = RESOLUTIONS[resolution]
    if aspect_ratio is None:
        return width, height
    across, down = ASPECT_RATIOS[aspect_ratio]
    longer = round(height * max(across, down) / min(across, down) / SIZE_MULTIPLE) * SIZE_MULTIPLE
    return (longer, height) if across >= down else (height, longer)
