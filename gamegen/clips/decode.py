"""Latents of a clip to frames by the large decoder, in windows: whoever decodes one needs to know no other.

A chunk's frames depend on its latent and the two before it, since time enters the decoder in two places. Every pass
takes one chunk, so that its frames are the same to the last bit in whichever window it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gamegen.models.checkpoint import Model
from gamegen.models.vae import to_pixels

CHUNKS_BEFORE = 2
"""Latents before a chunk that its frames depend on."""


@dataclass(frozen=True)
class Window:
    """Some chunks of a clip: `latents` `(n, C, h, w)`, of which those before `first_chunk` only lead to it."""

    latents: Tensor
    first_chunk: int


def windows(latents: Tensor, num_before: int = 0, chunks_per_window: int = 8) -> Iterator[Window]:
    """The windows of a clip, in its order; `num_before` of the latents `(M, C, h, w)` are not in it."""
    for first in range(num_before, len(latents), chunks_per_window):
        start = max(0, first - CHUNKS_BEFORE)
        yield Window(latents[start : first + chunks_per_window], first - start)


@torch.inference_mode()
def decode_window(model: Model, latents: Tensor, first_chunk: int = 0) -> np.ndarray:
    """Frames, uint8 `(4n, H, W, 3)`, of the n chunks from `first_chunk` on of normalised latents `(M, C, h, w)`.

    Where the clip does not begin with it, at least `CHUNKS_BEFORE` latents stand before it.
    """
    own = model.denormalise(latents.float().to(model.device))
    cache = None
    for latent in own[max(0, first_chunk - CHUNKS_BEFORE) : first_chunk]:
        _, cache = model.vae.decoder.mixed(latent[None], 1, cache)
    pieces = []
    for latent in own[first_chunk:]:
        video, cache = model.vae.decode_chunks(latent[None, None], cache)
        pieces.append(to_pixels(video[0]).cpu().numpy())
    return np.concatenate(pieces)
