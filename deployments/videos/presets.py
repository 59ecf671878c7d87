"""Presets of an order: frame sizes of resolutions."""

from __future__ import annotations

from gamegen.generation.drawn_size import cropped_size, drawn_size
from gamegen.media.size import Size

NANO = Size(160, 96)
RESOLUTIONS: dict[str, Size] = {
    "nano": NANO,
    "480p": Size(854, 480),
    "720p": Size(1280, 720),
    "1080p": Size(1920, 1080),
    "4k": Size(3840, 2160),
}
"""Frame size in pixels of each resolution without an aspect ratio."""
ASPECT_RATIOS: dict[str, tuple[int, int]] = {
    "16:9": (16, 9),
    "9:16": (9, 16),
    "5:3": (5, 3),
    "4:3": (4, 3),
    "3:4": (3, 4),
    "1:1": (1, 1),
}


def size_of(resolution: str, aspect_ratio: str | None) -> Size:
    """Frame size in pixels; the shorter side is the resolution's, the longer one even.

    Of `nano` it is as large as can be cropped out of about as many pixels as that has.
    """
    whole = RESOLUTIONS[resolution]
    if aspect_ratio is None:
        return whole
    across, down = ASPECT_RATIOS[aspect_ratio]
    if resolution == "nano":
        return cropped_size(drawn_size(Size(across * 1000, down * 1000), NANO), across, down)
    if (across, down) in ((16, 9), (9, 16)):
        return whole if across > down else Size(whole.height, whole.width)
    longer = round(whole.height * max(across, down) / min(across, down) / 2) * 2
    return Size(longer, whole.height) if across >= down else Size(whole.height, longer)
