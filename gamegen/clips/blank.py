"""A model that draws nothing: what a clip costs besides its drawing is all that is left to measure.

Its latents are empty, its frames black. Everything else about a clip is as with any other model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gamegen.clips.checkpoint import ClipCheckpoint
from gamegen.clips.drawing import Drawing
from gamegen.clips.plan import ClipPlan
from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.models.sampling import SamplingConfig
from gamegen.models.text import TextStates
from gamegen.video import SIZE_MULTIPLE
from gamegen.videos.order import Order


def blank_frames(latent_Chw: Tensor | np.ndarray) -> np.ndarray:
    """Black frames, uint8 `(4, H, W, 3)`, for a latent of a `BlankRenderer`."""
    height, width = latent_Chw.shape[-2:]
    return np.zeros((FRAMES_PER_CHUNK, height * SIZE_MULTIPLE, width * SIZE_MULTIPLE, 3), np.uint8)


class BlankRenderer:
    """Takes the place of a `ClipRenderer` whose model samples as `sampling` says; a step is a whole chunk."""

    def __init__(self, sampling: SamplingConfig) -> None:
        self._sampling = sampling

    def first_latents(self, order: Order, data: bytes) -> Tensor:
        """One empty latent, whatever the file."""
        return _latent(order)[None]

    def begin(
        self,
        order: Order,
        prompt: TextStates,
        negative: TextStates | None = None,
        first: Tensor | None = None,
    ) -> Drawing:
        """A clip before its first step; raises ValueError for an order that is beyond the limits."""
        finished = [] if first is None else [*first]
        return self._drawing(order, finished, len(finished) if order.source_key else 0)

    def resume(
        self, order: Order, prompt: TextStates, negative: TextStates | None, checkpoint: bytes
    ) -> Drawing:
        """A clip as its checkpoint says; raises ValueError for one that cannot be read."""
        kept = ClipCheckpoint.from_bytes(checkpoint)
        return self._drawing(order, [*kept.latents], kept.num_before)

    def step(self, drawings: Sequence[Drawing]) -> float:
        """Takes each clip one chunk further; returns how long that took, in seconds."""
        began = time.perf_counter()
        for drawing in drawings:
            drawing.finished.append(_latent(drawing.order))
        return time.perf_counter() - began

    def close(self, drawing: Drawing) -> None:
        """There is nothing to free."""

    def _drawing(self, order: Order, finished: list[Tensor], num_before: int) -> Drawing:
        return Drawing("", order, ClipPlan.of(order, self._sampling), finished, num_before)


def _latent(order: Order) -> Tensor:
    return torch.zeros(1, order.height // SIZE_MULTIPLE, order.width // SIZE_MULTIPLE, dtype=torch.float16)
