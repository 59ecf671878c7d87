"""The pictures of a gallery as exemplars of a world's detail."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np

from gamegen.gallery.gallery import Gallery
from gamegen.media.images import decode_image
from gamegen.models.exemplars import Exemplars

_LEAST_LIKELY = -4.0
"""Lower bound of the log likelihoods, those of the likeliest being 0."""
_TOLD_BY = 32
"""Starts, those that are most similar to a prompt, by which its perspective is told."""


def exemplars_of(gallery: Gallery) -> Exemplars | None:
    """The exemplars that a gallery has; None for one whose pictures are only to be looked at."""
    if "picture_size" not in gallery.card:
        return None
    return Exemplars(_decoded(gallery.pictures), lambda vector: preference(gallery, vector))


@lru_cache(maxsize=2)
def _decoded(files: tuple[bytes, ...]) -> tuple[np.ndarray, ...]:
    """Pictures, uint8 `(H, W, 3)`: 46 MB for a thousand, which the models of a process share."""
    return tuple(decode_image(file) for file in files)


def preference(gallery: Gallery, vector: np.ndarray) -> np.ndarray:
    """Log likelihoods `(N,)` of a gallery's starts under a prompt's encoding `(D,)`.

    They are 0 for the likeliest, at least `_LEAST_LIKELY`, and -inf for those of another perspective than the prompt's.
    """
    score = gallery.scores(vector)
    perspectives = np.array([entry.perspective or "" for entry in gallery.entries])
    told = Counter(perspectives[np.argsort(-gallery.similarities(vector), kind="stable")[:_TOLD_BY]])
    same = perspectives == told.most_common(1)[0][0]
    return np.where(same, np.maximum(score - score[same].max(), _LEAST_LIKELY), -np.inf)
