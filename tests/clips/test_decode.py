"""Windows of a clip are decoded to the frames that it has as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gamegen.clips.decode import decode_window, windows
from gamegen.models.vae import to_pixels
from tests.test_world import random_model


@torch.inference_mode()
def decoded_whole(model, latents: torch.Tensor) -> np.ndarray:
    """Chunk after chunk, with the memory of all before."""
    cache, frames = None, []
    for latent in model.denormalise(latents.float()):
        video, cache = model.vae.decode_chunks(latent[None, None], cache)
        frames.append(to_pixels(video[0]).numpy())
    return np.concatenate(frames)


@pytest.mark.parametrize("chunks_per_window", [1, 2, 3, 8])
def test_windows_show_what_the_whole_does(chunks_per_window):
    model, latents = random_model(), torch.randn(7, 4, 4, 4).half()
    whole = decoded_whole(model, latents)
    cut = [*windows(latents, 0, chunks_per_window)]
    assert len(cut) == -(-7 // chunks_per_window)
    assert all(len(window.latents) <= chunks_per_window + 2 for window in cut)
    # Whichever comes first, and however often.
    frames = {i: decode_window(model, cut[i].latents, cut[i].first_chunk) for i in reversed(range(len(cut)))}
    assert np.array_equal(np.concatenate([frames[i] for i in range(len(cut))]), whole)


def test_what_was_before_a_clip_leads_to_it():
    model, latents = random_model(), torch.randn(6, 4, 4, 4).half()
    whole = decoded_whole(model, latents)
    after = [decode_window(model, window.latents, window.first_chunk) for window in windows(latents, 3, 2)]
    assert np.array_equal(np.concatenate(after), whole[12:])
    assert not np.array_equal(decode_window(model, latents[3:]), whole[12:])
