"""Renderer of black clips, for measurements of everything that a clip costs besides its denoising.

Its latents are zeros, its frames black; plans, checkpoints and chunks are those of a real renderer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK, SIZE_MULTIPLE
from gamegen.generation.clip_checkpoint import read_checkpoints
from gamegen.generation.drawing import Drawing
from gamegen.generation.render_plan import RenderPlan
from gamegen.generation.spec import ClipSpec, ClipStart
from gamegen.models.sampling import SamplingConfig
from gamegen.models.text import TextStates


class BlankRenderer:
    """Stand-in for a `ClipRenderer` whose model has this `sampling`; a step finishes a whole chunk."""

    def __init__(self, sampling: SamplingConfig) -> None:
        self._sampling = sampling

    def first_latents(self, spec: ClipSpec, data: bytes) -> Tensor:
        """Latents `(1, 1, h, w)` of zeros; the file is not read."""
        return _latent(spec)[None]

    def begin(
        self,
        spec: ClipSpec,
        prompt: TextStates,
        negative: TextStates | None = None,
        first: Tensor | None = None,
    ) -> Drawing:
        """A clip before its first step."""
        drawing = self._drawing(spec, 0 if first is None or spec.start is not ClipStart.VIDEO else len(first))
        for latent in () if first is None else first:
            drawing.finished.append(latent)
        return drawing

    def resume(
        self,
        spec: ClipSpec,
        prompt: TextStates,
        negative: TextStates | None,
        checkpoint: bytes,
        read: Callable[[str], bytes] | None = None,
    ) -> Drawing:
        """A clip from its checkpoint; raises ValueError as `ClipRenderer.resume`."""
        kept = read_checkpoints(checkpoint, read)
        drawing = self._drawing(spec, kept[-1].num_before)
        drawing.num_stored, drawing.stored = kept[-1].num_earlier, kept[-1].earlier
        for latent in (latent for part in kept for latent in part.latents):
            drawing.finished.append(latent)
        return drawing

    def step(self, drawings: Sequence[Drawing]) -> float:
        """Finishes one chunk of each clip; returns the seconds that took."""
        began = time.perf_counter()
        for drawing in drawings:
            drawing.finished.append(_latent(drawing.spec))
        return time.perf_counter() - began

    def decode(self, drawing: Drawing) -> Iterator[np.ndarray]:
        """Black frames, uint8 `(4, H, W, 3)`, of each chunk."""
        for latent_Chw in drawing.finished.each_latent(drawing.num_before):
            height, width = latent_Chw.shape[-2:]
            yield np.zeros((FRAMES_PER_CHUNK, height * SIZE_MULTIPLE, width * SIZE_MULTIPLE, 3), np.uint8)

    def close(self, drawing: Drawing) -> None:
        """Does nothing: a blank clip holds no slot."""

    def _drawing(self, spec: ClipSpec, num_before: int) -> Drawing:
        plan = RenderPlan.of(spec, self._sampling)
        return Drawing(session_id="", spec=spec, plan=plan, num_before=num_before)


def _latent(spec: ClipSpec) -> Tensor:
    return torch.zeros(1, spec.height // SIZE_MULTIPLE, spec.width // SIZE_MULTIPLE, dtype=torch.float16)
