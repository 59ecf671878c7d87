"""Decoding of a clip's latents into frames by the large decoder.

A chunk's frames depend on its latent and the two before it, since time enters the decoder in two places. Every pass
takes one chunk, so that its frames are bit-identical wherever decoding begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from gamegen.models.folding import to_pixels
from gamegen.models.model import Model

CHUNKS_BEFORE = 2
"""Number of latents before a chunk that its frames depend on."""


class ClipDecoder:
    """Decodes the latents of one clip in their order; keeps what the next chunk depends on, whatever came before."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._cache: list[Tensor] | None = None

    @torch.inference_mode()
    def skip(self, latent: Tensor) -> None:
        """Takes a normalised latent `(C, h, w)` from before the clip, which the next chunks depend on."""
        _, self._cache = self._model.vae.decoder.mixed(self._own(latent), 1, self._cache)

    @torch.inference_mode()
    def decode(self, latent: Tensor) -> np.ndarray:
        """Frames, uint8 `(4, H, W, 3)`, of the next normalised latent `(C, h, w)`."""
        video, self._cache = self._model.vae.decode_chunks(self._own(latent)[None], self._cache)
        return to_pixels(video[0]).cpu().numpy()

    def _own(self, latent: Tensor) -> Tensor:
        return self._model.denormalise(latent[None].float().to(self._model.device))


def decode_chunks(model: Model, latents: Iterable[Tensor], first_chunk: int = 0) -> Iterator[np.ndarray]:
    """Frames, uint8 `(4, H, W, 3)`, of each chunk from `first_chunk` on of normalised latents `(C, h, w)`.

    Unless the clip starts with it, at least `CHUNKS_BEFORE` latents stand before `first_chunk`.
    """
    decoder = ClipDecoder(model)
    for index, latent in enumerate(latents):
        if index >= first_chunk:
            yield decoder.decode(latent)
        elif index >= first_chunk - CHUNKS_BEFORE:
            decoder.skip(latent)


def decode_clip(model: Model, latents: Iterable[Tensor], first_chunk: int = 0) -> np.ndarray:
    """Frames, uint8 `(4n, H, W, 3)`, of the n chunks from `first_chunk` on; see `decode_chunks`."""
    return np.concatenate([*decode_chunks(model, latents, first_chunk)])
