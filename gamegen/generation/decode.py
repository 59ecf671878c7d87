"""Decoding of a clip's latents into frames by the large decoder.

A chunk's frames depend on its latent and the two before it, since time enters the decoder in two places. Every pass
takes one chunk, so that its frames are bit-identical wherever decoding begins.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gamegen.models.folding import to_pixels
from gamegen.models.model import Model

CHUNKS_BEFORE = 2
"""Number of latents before a chunk that its frames depend on."""


@torch.inference_mode()
def decode_chunks(model: Model, latents: Tensor, first_chunk: int = 0) -> Iterator[np.ndarray]:
    """Frames, uint8 `(4, H, W, 3)`, of each chunk from `first_chunk` on of normalised latents `(M, C, h, w)`.

    Unless the clip starts with it, at least `CHUNKS_BEFORE` latents stand before `first_chunk`.
    """
    own = model.denormalise(latents.float().to(model.device))
    cache = None
    for latent in own[max(0, first_chunk - CHUNKS_BEFORE) : first_chunk]:
        _, cache = model.vae.decoder.mixed(latent[None], 1, cache)
    for latent in own[first_chunk:]:
        video, cache = model.vae.decode_chunks(latent[None, None], cache)
        yield to_pixels(video[0]).cpu().numpy()


def decode_clip(model: Model, latents: Tensor, first_chunk: int = 0) -> np.ndarray:
    """Frames, uint8 `(4n, H, W, 3)`, of the n chunks from `first_chunk` on; see `decode_chunks`."""
    return np.concatenate([*decode_chunks(model, latents, first_chunk)])
