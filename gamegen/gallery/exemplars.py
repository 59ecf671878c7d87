"""The pictures of a gallery as exemplars of a world's detail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from gamegen.gallery.gallery import Gallery
from gamegen.gallery.scene_probes import ATTRIBUTES
from gamegen.media.images import decode_image
from gamegen.models.exemplars import Exemplars
from gamegen.models.motion import FINE

_LEAST_LIKELY = -4.0
"""Lower bound of the log likelihoods, those of the likeliest being 0."""
_STEADY, _LEAST_PICTURES = 0.8, 32
"""Spread, relative to the row's, below which a place is covered in pictures, of which there are at least so many."""
_ABOUT = 9
"""Width in places of the squares by which such places are grown: tools swing."""
_TOLD_BY = 32
"""Starts, those that are most similar to a prompt, by which its perspective is told."""


def exemplars_of(gallery: Gallery) -> Exemplars | None:
    """The exemplars that a gallery has; None for one whose pictures are only to be looked at."""
    if "picture_size" not in gallery.card:
        return None
    perspectives = tuple(entry.perspective or "" for entry in gallery.entries)
    pictures, covered = _read(gallery.pictures, perspectives)
    return Exemplars(
        pictures,
        [covered[perspective] for perspective in perspectives],
        scene_numbers(gallery),
        lambda vector: preference(gallery, vector),
    )


def covered_places(pictures: Sequence[np.ndarray], perspectives: Sequence[str]) -> dict[str, np.ndarray]:
    """Places, bool `(q, r)`, of each perspective's pictures in which something stands in front of the scenery.

    A held tool or an avatar is in the same place in most of them: a pixel there differs less from the median of all
    than others in its row. Of few pictures nothing is told.
    """
    found = {}
    for perspective in set(perspectives):
        chosen = [p for p, of in zip(pictures, perspectives, strict=True) if of == perspective]
        small = np.stack(
            [cv2.resize(p, None, fx=1 / FINE, fy=1 / FINE, interpolation=cv2.INTER_AREA) for p in chosen]
        )
        values = small / np.maximum(small.mean((1, 2, 3), keepdims=True), 5)
        spread = np.median(np.abs(values - np.median(values, 0)), 0).mean(2)
        is_steady = spread < _STEADY * np.median(spread, 1, keepdims=True)
        if len(chosen) < _LEAST_PICTURES:
            is_steady[:] = False
        # Alone, a place is so by chance.
        mask = cv2.morphologyEx(is_steady.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        found[perspective] = cv2.dilate(mask, np.ones((_ABOUT, _ABOUT), np.uint8)) > 0
    return found


def scene_numbers(gallery: Gallery) -> np.ndarray:
    """Numbers of the recorded scenes' values, int64 `(N, A)`, one for each of `ATTRIBUTES`; -1 where none is known."""
    columns = []
    for name in ATTRIBUTES:
        values = [entry.scene[name] for entry in gallery.entries]
        known = sorted({value for value in values if value})
        columns.append([known.index(value) if value else -1 for value in values])
    return np.array(columns, np.int64).T


@lru_cache(maxsize=2)
def _read(
    files: tuple[bytes, ...], perspectives: tuple[str, ...]
) -> tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]:
    """Pictures, uint8 `(H, W, 3)`, and what `covered_places` finds: 46 MB a thousand, which a process has once."""
    pictures = tuple(decode_image(file) for file in files)
    return pictures, covered_places(pictures, perspectives)


def preference(gallery: Gallery, vector: np.ndarray) -> np.ndarray:
    """Log likelihoods `(N,)` of a gallery's starts under a prompt's encoding `(D,)`.

    They are 0 for the likeliest, at least `_LEAST_LIKELY`, and -inf for those of another perspective than the prompt's.
    """
    score = gallery.scores(vector)
    perspectives = np.array([entry.perspective or "" for entry in gallery.entries])
    told = Counter(perspectives[np.argsort(-gallery.similarities(vector), kind="stable")[:_TOLD_BY]])
    same = perspectives == told.most_common(1)[0][0]
    return np.where(same, np.maximum(score - score[same].max(), _LEAST_LIKELY), -np.inf)
