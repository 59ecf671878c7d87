"""Rollouts of many worlds in one batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gamegen.controls import OPERATION_SIZE, Control
from gamegen.engine.conditioning import NO_INSTRUCTION, Conditioning
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.latent_decoder import LatentDecoder, StreamPast
from gamegen.engine.snapshot import PastChunk, WorldSnapshot
from gamegen.gallery.gallery import Gallery
from gamegen.gallery.opening import start_opening
from gamegen.models.model import Model
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
        self.decoder = LatentDecoder(model)
        self.text_encoder = text_encoder
        self.advance = advance
        self.gallery = gallery
        self.names: list[str] = []
        self.pasts: list[StreamPast] = []

    def open(self, prompts: list[str], seeds: list[int], perspectives: list[str] | None = None) -> None:
        """Closes the worlds of before and opens one for each prompt and seed.

        `perspectives` are those that the prompts ask for, first person by default; the gallery's choice needs them.
        """
        self._close()
        self.names, self.pasts = [str(seed) for seed in seeds], [StreamPast() for _ in seeds]
        states = self.text_encoder.encode(prompts)
        views = perspectives or ["first"] * len(seeds)
        for i, (seed, state, view) in enumerate(zip(seeds, states, views, strict=True)):
            self.pasts[i] = StreamPast(self._open(str(seed), state, seed, view))

    def _open(self, name: str, prompt: TextStates, seed: int, view: str) -> torch.Tensor | None:
        """Opens a world; returns the latent before its next chunk, None without any."""
        if self.gallery is None:
            self.engine.open(name, prompt, seed)
            return None
        start = self.gallery.choose(prompt.pooled.numpy(), view, seed)
        opening = start_opening(start, self.engine.model)
        self.engine.open(name, prompt, seed, opening.latents, opening.is_varied)
        return self.engine.snapshot(name).chunks[-1].latent

    def continue_from(
        self,
        latents: np.ndarray,
        operations: np.ndarray,
        prompt: str,
        seed: int,
        shown: np.ndarray | None = None,
    ) -> None:
        """Closes the worlds of before and opens one with a given past.

        `latents` float16 `(n, C, h, w)`, normalised, and `operations` float32 `(n, 4, O)` of its n chunks; `shown` are
        its last frames, uint8 `(2, H, W, 3)`, where they are known.
        """
        self._close()
        states = self.text_encoder.encode([prompt])[0]
        past = [
            PastChunk(torch.from_numpy(latent), Conditioning(done))
            for latent, done in zip(latents, operations, strict=True)
        ]
        self.names = [str(seed)]
        given = None if shown is None else torch.from_numpy(shown)
        self.pasts = [StreamPast().next(past[-1].latent, given, operations.reshape(-1, OPERATION_SIZE))]
        snapshot = WorldSnapshot(
            seed=seed,
            version=len(past),
            prompt=states,
            chunks=past,
            anchors=[],
            upcoming=[NO_INSTRUCTION],
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
        drawn = self.engine.step(dict.fromkeys(self.names, operations))
        latents = [torch.from_numpy(drawn[name]) for name in self.names]
        frames = self.decoder.decode(latents, self.pasts, [operations] * len(latents))
        following = zip(self.pasts, latents, frames, strict=True)
        self.pasts = [past.next(latent, own, operations) for past, latent, own in following]
        self.advance(len(latents))
        return frames.numpy()

    def _close(self) -> None:
        for name in self.names:
            self.engine.close(name)
