"""Interfaces of what a clip worker is given: a renderer and a text encoder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from deployments.replicas.messages import EncodedText
from gamegen.generation.drawing import Drawing
from gamegen.generation.spec import ClipSpec
from gamegen.models.text import TextStates

EncodeText = Callable[[str, str | None], Awaitable[EncodedText]]
"""Encodes a text; with a perspective it is a clip's prompt. Raises ValueError for a text that the model cannot take."""


class Renderer(Protocol):
    """A `ClipRenderer` or `BlankRenderer`; not thread-safe."""

    def first_latents(self, spec: ClipSpec, data: bytes) -> Tensor | None:
        """Latents of the image or video that a clip starts from; raises ValueError."""

    def begin(
        self, spec: ClipSpec, prompt: TextStates, negative: TextStates | None, first: Tensor | None
    ) -> Drawing:
        """A clip before its first step; raises ValueError."""

    def resume(
        self,
        spec: ClipSpec,
        prompt: TextStates,
        negative: TextStates | None,
        checkpoint: bytes,
        read: Callable[[str], bytes] | None,
    ) -> Drawing:
        """A clip from its checkpoint, and the earlier ones that `read` returns by their names; raises ValueError."""

    def step(self, drawings: Sequence[Drawing]) -> float:
        """Takes one denoising step of each clip; returns the seconds that took."""

    def decode(self, drawing: Drawing) -> Iterator[np.ndarray]:
        """Frames, uint8 `(4, H, W, 3)`, of each chunk of a clip that is done; another thread may iterate it."""

    def close(self, drawing: Drawing) -> None:
        """Frees a clip's slot."""
