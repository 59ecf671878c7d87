"""Which clips are worth training on: broken, black, frozen and near-static ones are turned away.

Everything is measured on the small, already resized frames: cheap, and blind to codec noise.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class FilterConfig:
    """Thresholds. Luma and differences are in steps of 8 bits (0 to 255), fractions in [0, 1].

    A frame is black when its brightest percent of pixels stays under `black_luma` (a moonlit scene has
    lit pixels; a black screen has none), frozen when it differs from the one before by less than
    `frozen_difference` on average, moving when it differs by at least `moving_difference`.
    Standing still for a while inside a moving clip is good footage: only a clip with hardly anything
    else is turned away, hence fractions of the whole clip.
    """

    black_luma: float = 14.0
    max_black_fraction: float = 0.25
    frozen_difference: float = 0.03
    max_frozen_fraction: float = 0.75
    moving_difference: float = 0.6
    min_moving_fraction: float = 0.1

    def __post_init__(self) -> None:
        for name in ("max_black_fraction", "max_frozen_fraction", "min_moving_fraction"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} = {value}: must lie between 0 and 1")
        if self.frozen_difference > self.moving_difference:
            raise ValueError(
                f"frozen_difference = {self.frozen_difference} is above moving_difference = "
                f"{self.moving_difference}: a frame would be frozen and moving at once; lower it"
            )


@dataclass(frozen=True)
class ClipMeasures:
    """What the filters look at: shares of a clip's frames (of its frame pairs, for frozen and moving)."""

    black_fraction: float
    frozen_fraction: float
    moving_fraction: float


def measure(frames: np.ndarray, config: FilterConfig) -> ClipMeasures:
    """Measures uint8 RGB frames `(T, H, W, 3)`."""
    luma = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    brightest = np.percentile(luma.reshape(len(luma), -1), 99, axis=1)
    black_fraction = float(np.mean(brightest < config.black_luma))
    if len(luma) < 2:
        return ClipMeasures(black_fraction, frozen_fraction=1.0, moving_fraction=0.0)
    differences = np.array([cv2.absdiff(a, b).mean() for a, b in itertools.pairwise(luma)])
    return ClipMeasures(
        black_fraction,
        frozen_fraction=float(np.mean(differences < config.frozen_difference)),
        moving_fraction=float(np.mean(differences >= config.moving_difference)),
    )


def rejection(measures: ClipMeasures, config: FilterConfig) -> tuple[str, str] | None:
    """Why a clip is turned away, as (reason, detail), or None for a good one.

    Reasons: black, frozen, near-static; the strongest evidence is named first.
    """
    if measures.black_fraction > config.max_black_fraction:
        return "black", f"{measures.black_fraction:.0%} black frames, at most {config.max_black_fraction:.0%}"
    if measures.frozen_fraction > config.max_frozen_fraction:
        return "frozen", (
            f"{measures.frozen_fraction:.0%} frozen frames, at most {config.max_frozen_fraction:.0%}"
        )
    if measures.moving_fraction < config.min_moving_fraction:
        return "near-static", (
            f"{measures.moving_fraction:.0%} moving frames, at least {config.min_moving_fraction:.0%}"
        )
    return None
