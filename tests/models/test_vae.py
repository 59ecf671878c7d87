"""Equalities of the autoencoder: streaming = whole, cropping to chunks, causality, PCA start."""

import dataclasses

import pytest
import torch

from gamegen.engine.latent_decoder import LatentDecoder
from gamegen.models.folding import (
    fold_frames,
    fold_patches,
    from_pixels,
    to_pixels,
    unfold_frames,
    unfold_patches,
)
from gamegen.models.model import Model, ModelConfig
from gamegen.models.streaming_decoder import DeblockingFilter
from gamegen.models.vae import CausalVideoVAE, VAEConfig


@pytest.fixture
def vae() -> CausalVideoVAE:
    torch.manual_seed(0)
    vae = CausalVideoVAE(VAEConfig.tiny()).eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1)
    return vae


@torch.inference_mode()
def test_decoding_chunk_by_chunk_equals_decoding_at_once(vae):
    latent = torch.randn(2, 5, 4, 4, 4)
    cache, pieces = None, []
    for i in range(5):
        video, cache = vae.decode_chunks(latent[:, i : i + 1], cache)
        pieces.append(video)
    torch.testing.assert_close(torch.cat(pieces, 1), vae.decode(latent), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_streaming_decoder_chunk_by_chunk_equals_at_once(in_float32):
    torch.manual_seed(0)
    model = Model(ModelConfig.tiny()).eval()
    latent = torch.randn(1, 4, 4, 4, 4)
    decoder = LatentDecoder(model)
    before, pieces = None, []
    for i in range(4):
        parts = [*decoder.decode_in_parts([latent[0, i]], [before], None)]
        assert [part.shape[1] for part in parts] == [1, 3]
        pieces.append(torch.cat(parts, 1)[0])
        before = latent[0, i]
    whole = to_pixels(model.vae.decode_streaming(latent)[0])
    assert (torch.cat(pieces).int() - whole.int()).abs().max() <= 1


@torch.inference_mode()
def test_a_repeated_latent_stands_still_and_a_new_one_moves(vae):
    first, second = torch.randn(2, 1, 1, 4, 4, 4)
    video = vae.decode_streaming(torch.cat([first, second, second, second], 1))[0]
    moving, still = video[4:8], video[8:16]
    assert moving.diff(dim=0).abs().mean() > 0.01
    assert torch.equal(still, still[:1].expand_as(still))


@torch.inference_mode()
def test_one_place_may_move_while_the_rest_stands_still(vae):
    before = torch.randn(1, 1, 4, 8, 8)
    after = before.clone()
    after[..., 6:, 6:] += 2
    video = vae.decode_streaming(torch.cat([before, after], 1))[0, 4:]
    assert video[..., :24, :24].diff(dim=0).abs().max() == 0
    assert video[..., -8:, -8:].diff(dim=0).abs().mean() > 0.01


@torch.inference_mode()
def test_latents_are_causal(vae):
    video = torch.rand(1, 16, 3, 32, 32) * 2 - 1
    changed = video.clone()
    changed[:, 8:] = 0
    before, after = vae.encode(video), vae.encode(changed)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert (before[:, 2] - after[:, 2]).abs().max() > 1e-3
    assert before.shape == (1, 4, 4, 4, 4)


def test_pca_start_whitens_latents_and_reconstructs(vae):
    flat = torch.randn(4, 8, 3, 4, 4).repeat_interleave(8, -1).repeat_interleave(8, -2) * 0.3
    fresh = CausalVideoVAE(VAEConfig.tiny())
    fresh.initialise_from_patches(flat)
    with torch.inference_mode():
        linear = fresh.encoder.patch(fold_patches(fold_frames(flat)))
        assert abs(linear.std().item() - 1) < 0.05
        error = (fresh.decode(fresh.encode(flat)) - flat).square().mean()
    assert error < 0.6 * flat.var()


def test_foldings_invert():
    video = torch.randn(2, 8, 3, 16, 24)
    folded = fold_frames(video)
    assert torch.equal(unfold_frames(folded, 2), video)
    assert torch.equal(unfold_patches(fold_patches(folded)), folded)
    pixels = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    assert torch.equal(to_pixels(from_pixels(pixels)), pixels)


@torch.inference_mode()
def test_a_linear_encoder_is_the_patch_path_of_a_whole_one(vae):
    """A chunk's latent depends on no other chunk, and the weights of a whole one fit."""
    linear = CausalVideoVAE(dataclasses.replace(VAEConfig.tiny(), linear_encoder=True)).eval()
    missing, _ = linear.load_state_dict(vae.state_dict(), strict=False)
    assert not missing
    video = torch.rand(2, 8, 3, 32, 32) * 2 - 1
    mean, log_variance = linear.encode_moments(video)
    patches = vae.encoder.patch(fold_patches(fold_frames(video))).unflatten(0, (2, 2))
    torch.testing.assert_close(mean, patches)
    torch.testing.assert_close(linear.encode(video[:, 4:]), mean[:, 1:])
    assert log_variance.shape == mean.shape and (log_variance == -4).all()


@torch.inference_mode()
def test_the_last_two_frames_alone_are_those_of_the_whole_chunk(vae):
    latent, memory = torch.randn(2, 3, 4, 4, 4)
    memory[0] = latent[0]
    whole = vae.streaming(latent, memory)
    before, last = vae.streaming.last_two(latent, memory)
    torch.testing.assert_close(torch.cat([before, last], 1), whole[:, 6:], rtol=1e-5, atol=1e-5)


def test_the_deblocking_filter_begins_as_nothing_and_knows_where_the_seams_are():
    torch.manual_seed(0)
    filtering = DeblockingFilter(8)
    frames = torch.randn(2, 3, 48, 64)
    with torch.inference_mode():
        assert torch.equal(filtering(frames), frames)
        torch.nn.init.normal_(filtering.kernels[-1].weight)
        inner = (slice(None), slice(None), slice(16, 32), slice(16, 32))
        changes = {
            shift: (filtering(moved) - moved).roll((-shift, -shift), (2, 3))[inner]
            for shift in (0, 4, 8)
            for moved in [frames.roll((shift, shift), (2, 3))]
        }
    torch.testing.assert_close(changes[8], changes[0])
    assert (changes[4] - changes[0]).abs().mean() > 0.1 * changes[0].abs().mean()


def test_the_deblocking_filter_lets_nothing_grow():
    """However often it is used, and whatever it has learned."""
    torch.manual_seed(0)
    filtering, frames = DeblockingFilter(8), torch.randn(2, 3, 48, 64)
    with torch.inference_mode():
        for parameter in filtering.parameters():
            torch.nn.init.normal_(parameter)
        shown = frames
        for _ in range(20):
            shown = filtering(shown)
    assert shown.max() <= frames.max() and shown.min() >= frames.min()
    assert 0 < shown.std() < frames.std()
