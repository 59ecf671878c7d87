"""Rollouts of many worlds in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from gamegen.controls import Control
from gamegen.engine.conditioning import NO_INSTRUCTION, Conditioning
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.snapshot import PastChunk, WorldSnapshot
from gamegen.gallery.gallery import Gallery
from gamegen.gallery.opening import start_opening
from gamegen.models.model import Model
from gamegen.models.motion_compensation import Compensated, compensate_stream
from gamegen.models.text import TextEncoder, TextStates

Advance = Callable[[int], None]
"""Progress callback, called with the number of chunks generated since the last call, all worlds together."""


class WorldBatch:
    """A batch of worlds, one a seed, that are opened, instructed and played together.

    With a `gallery` they begin from its recorded moments, else they are drawn from their prompts alone.
    """

    def __init__(
        self,
        model: Model,
        text_encoder: TextEncoder,
        max_worlds: int,
        advance: Advance = lambda chunks: None,
        gallery: Gallery | None = None,
    ) -> None:
        self.engine = WorldEngine(model, EngineConfig(max_sessions=max_worlds))
        self.text_encoder = text_encoder
        self.advance = advance
        self.gallery = gallery
        self.names: list[str] = []

    def open(self, prompts: list[str], seeds: list[int], perspectives: list[str] | None = None) -> None:
        """Closes the worlds of before and opens one for each prompt and seed.

        `perspectives` are those that the prompts ask for, first person by default; the gallery's choice needs them.
        """
        self._close()
        self.names = [str(seed) for seed in seeds]
        states = self.text_encoder.encode(prompts)
        views = perspectives or ["first"] * len(seeds)
        for seed, state, view in zip(seeds, states, views, strict=True):
            self._open(str(seed), state, seed, view)

    def _open(self, name: str, prompt: TextStates, seed: int, view: str) -> None:
        if self.gallery is None:
            self.engine.open(name, prompt, seed)
            return
        start = self.gallery.choose(prompt.pooled.numpy(), view, seed)
        self.engine.open(name, prompt, seed, start_opening(start, self.engine.model))

    def continue_from(
        self, latents: np.ndarray, operations: np.ndarray, prompt: str, seed: int, frames: np.ndarray
    ) -> None:
        """Closes the worlds of before and opens one with a given past.

        `latents` float16 `(n, C, h, w)`, normalised, `operations` float32 `(n, 4, O)` and `frames` uint8
        `(4n, H, W, 3)` are those of its n chunks.
        """
        self._close()
        model = self.engine.model
        given: Sequence[Compensated | None] = [None] * len(latents)
        if model.foundation is not None and model.foundation.config.motion_compensation:
            given = _motion_compensated(model, frames, operations)
        past = [
            PastChunk(torch.from_numpy(latent), Conditioning(done), compensated)
            for latent, done, compensated in zip(latents, operations, given, strict=True)
        ]
        self.names = [str(seed)]
        snapshot = WorldSnapshot(
            seed=seed,
            version=len(past),
            prompt=self.text_encoder.encode([prompt])[0],
            chunks=past,
            anchors=[],
            upcoming=[NO_INSTRUCTION],
            shown=torch.from_numpy(frames[-2:].copy()) if model.follows_shown_frames else None,
        )
        self.engine.restore(self.names[0], snapshot)

    def instruct(self, orders: list[str]) -> None:
        """Gives each world its instruction, from the next chunk on."""
        for name, states in zip(self.names, self.text_encoder.encode(orders), strict=True):
            self.engine.instruct(name, states)

    def play(self, keys: set[str], num_chunks: int) -> np.ndarray:
        """Every world's frames under held keys, uint8 `(worlds, 4 * num_chunks, H, W, 3)`."""
        return np.concatenate([self.step(Control(keys).operations()) for _ in range(num_chunks)], 1)

    def step(self, operations: np.ndarray) -> np.ndarray:
        """Every world's next chunk under the same operations `(4, O)`, uint8 `(worlds, 4, H, W, 3)`."""
        self.engine.step(dict.fromkeys(self.names, operations))
        frames = np.stack([self.engine.frames(name) for name in self.names])
        self.advance(len(frames))
        return frames

    def _close(self) -> None:
        for name in self.names:
            self.engine.close(name)


@torch.inference_mode()
def _motion_compensated(model: Model, frames: np.ndarray, operations: np.ndarray) -> list[Compensated]:
    """Motion-compensated latents of each chunk of recorded frames, normalised float16 as a snapshot holds them."""
    device = model.device
    given = (torch.from_numpy(array).to(device) for array in (frames, operations))
    found = compensate_stream(model, *given)
    pairs = zip(model.normalise(found.latent).half().cpu(), found.confidence.half().cpu(), strict=True)
    return [Compensated(*pair) for pair in pairs]
