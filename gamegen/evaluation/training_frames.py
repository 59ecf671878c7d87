"""Distance of drawn frames to the training frames: near zero means that what was recorded is shown again."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from gamegen.constants import FPS
from gamegen.curation import shards
from gamegen.evaluation.features import feature_network
from gamegen.media.frames import resize_to
from gamegen.media.mp4 import read_mp4

STRIDE_FRAMES = FPS
"""One training frame a second is compared with."""


@functools.lru_cache(maxsize=1)
def training_features(curated: str, size: tuple[int, int]) -> np.ndarray:
    """Features `(N, 1280)` of the training clips of curated shards; raises ValueError if there are none."""
    found = [
        feature_network().maps(resize_to(read_mp4(row["video"])[::STRIDE_FRAMES], size)).pooled()
        for row in shards.read_rows(Path(curated), ["video"], ["train"])
    ]
    if not found:
        raise ValueError(f"no training clip under {curated}: give curated shards (gamegen curate)")
    return np.concatenate(found)


def nearest_distance(features: np.ndarray, training: np.ndarray) -> float:
    """Mean over frames of the Euclidean distance to the nearest training frame, of features `(T, D)` and `(N, D)`."""
    a, b = features.astype(np.float64), training.astype(np.float64)
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return float(np.sqrt(np.maximum(squares.min(1), 0)).mean())
