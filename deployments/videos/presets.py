"""Presets of an order: prompt additions of styles, and frame sizes of resolutions."""

from __future__ import annotations

from gamegen.constants import SIZE_MULTIPLE

STYLES: dict[str, str] = {
    "cinematic": "cinematic lighting, shallow depth of field, film grain",
    "dreamy": "soft light, pastel colours, haze",
    "gloomy": "overcast sky, fog, muted colours",
    "noir": "black and white, hard shadows, night",
    "pixel-art": "pixel art, few colours, sharp edges",
    "vivid": "bright sunlight, saturated colours, clear sky",
    "watercolour": "watercolour painting, soft edges, paper texture",
}
"""Text that each style adds to the prompt."""

RESOLUTIONS: dict[str, tuple[int, int]] = {"nano": (160, 96), "480p": (848, 480), "720p": (1280, 720)}
"""Frame size (width, height) in pixels of each resolution without an aspect ratio."""
ASPECT_RATIOS: dict[str, tuple[int, int]] = {
    "16:9": (16, 9),
    "9:16": (9, 16),
    "5:3": (5, 3),
    "4:3": (4, 3),
    "3:4": (3, 4),
    "1:1": (1, 1),
}


def styled(prompt: str, style: str | None) -> str:
    """The prompt with its style's text."""
    return f"{prompt}, {STYLES[style]}" if style else prompt


def size_of(resolution: str, aspect_ratio: str | None) -> tuple[int, int]:
    """Frame size (width, height) in pixels; the shorter side is the resolution's, the longer one a multiple of 16."""
    width, height = RESOLUTIONS[resolution]
    if aspect_ratio is None:
        return width, height
    across, down = ASPECT_RATIOS[aspect_ratio]
    longer = round(height * max(across, down) / min(across, down) / SIZE_MULTIPLE) * SIZE_MULTIPLE
    return (longer, height) if across >= down else (height, longer)
