"""Decoding may begin at any chunk of a clip: its frames are bit-identical."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gamegen.generation.decode import CHUNKS_BEFORE, decode_chunks, decode_clip
from gamegen.models.folding import to_pixels
from tests.engine.test_world import random_model


@torch.inference_mode()
def decoded_whole(model, latents: torch.Tensor) -> np.ndarray:
    """Chunk after chunk, with the memory of all before."""
    cache, frames = None, []
    for latent in model.denormalise(latents.float()):
        video, cache = model.vae.decode_chunks(latent[None, None], cache)
        frames.append(to_pixels(video[0]).numpy())
    return np.concatenate(frames)


@pytest.mark.parametrize("first_chunk", range(7))
def test_decoding_begins_at_any_chunk(first_chunk: int) -> None:
    model, latents = random_model(), torch.randn(7, 4, 4, 4).half()
    whole = decoded_whole(model, latents)
    assert np.array_equal(decode_clip(model, latents, first_chunk), whole[4 * first_chunk :])
    # Earlier latents than the two before it are not needed.
    start = max(0, first_chunk - CHUNKS_BEFORE)
    assert np.array_equal(decode_clip(model, latents[start:], first_chunk - start), whole[4 * first_chunk :])


def test_chunks_come_one_by_one() -> None:
    model, latents = random_model(), torch.randn(5, 4, 4, 4).half()
    chunks = [*decode_chunks(model, latents, 2)]
    assert [chunk.shape for chunk in chunks] == [(4, 32, 32, 3)] * 3
    assert np.array_equal(np.concatenate(chunks), decoded_whole(model, latents)[8:])


def test_latents_before_a_clip_change_its_first_frames() -> None:
    model, latents = random_model(), torch.randn(6, 4, 4, 4).half()
    assert not np.array_equal(decode_clip(model, latents[3:]), decode_clip(model, latents, 3))
