"""The decoder with its reference, the frame shown last: batched = lone, compiled = not, lost references are found."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gamegen.controls import OPERATION_SIZE, Control
from gamegen.engine.latent_decoder import LatentDecoder, StreamPast
from gamegen.models.folding import chunk_pixels, unfold_patches
from gamegen.models.model import Model, ModelConfig
from gamegen.models.motion import PAST_OPERATIONS, MotionConfig
from gamegen.models.motion_compensation import refer
from gamegen.models.streaming_decoder import MAX_DETAIL, MAX_SHARE, Reference
from gamegen.training.stages.streaming import consistent


def referring_model() -> Model:
    """Every weight random, zero-initialised ones included, so that no path is silent."""
    torch.manual_seed(0)
    tiny = ModelConfig.tiny()
    vae = dataclasses.replace(tiny.vae, linear_encoder=True, streaming_reference=True)
    model = Model(dataclasses.replace(tiny, vae=vae, motion=MotionConfig.tiny())).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1)
    return model


OPERATIONS = [Control({"w"}).operations(), Control({"left"}).operations(), Control().operations()]


def played(decoder: LatentDecoder, latents: torch.Tensor) -> tuple[list[torch.Tensor], StreamPast]:
    """The chunks of a stream of latents `(T, C, h, w)`, and its past after them."""
    past, chunks = StreamPast(), []
    for i, latent in enumerate(latents):
        operations = OPERATIONS[i % len(OPERATIONS)]
        chunks.append(decoder.decode([latent], [past], [operations])[0])
        past = past.next(latent, chunks[-1], operations)
    return chunks, past


def test_a_past_holds_what_the_motion_network_reads():
    past = StreamPast()
    assert past.operations.shape == (PAST_OPERATIONS, OPERATION_SIZE) and not past.operations.any()
    for i in range(4):
        past = past.next(torch.full((4, 4, 4), i), torch.full((4, 8, 8, 3), i), OPERATIONS[i % 3])
    np.testing.assert_array_equal(past.operations, np.concatenate([OPERATIONS[i % 3] for i in (1, 2, 3)]))
    assert (past.latent == 3).all() and past.frames.shape == (2, 8, 8, 3) and (past.frames == 3).all()


def test_streams_of_a_batch_are_decoded_as_if_alone():
    """One has not begun, one has lost what it showed, and one is in play."""
    decoder = LatentDecoder(referring_model())
    latents = torch.randn(5, 4, 4, 4)
    _, past = played(decoder, latents[:3])
    pasts = [StreamPast(), dataclasses.replace(past, frames=None), past]
    now, operations = [*latents[3:], latents[0]], OPERATIONS
    together = decoder.decode(now, pasts, operations)
    for i in range(3):
        alone = decoder.decode(now[i : i + 1], pasts[i : i + 1], operations[i : i + 1])
        assert (alone[0].int() - together[i].int()).abs().max() <= 1
    without = decoder.decode([now[2]], [StreamPast(past.latent)], [np.zeros_like(operations[2])])
    assert (without[0].int() - together[2].int()).abs().max() > 1


def test_a_lost_reference_is_what_the_latent_before_shows(in_float32):
    model = referring_model()
    decoder, latent, before = LatentDecoder(model), *torch.randn(2, 4, 4, 4)
    with torch.inference_mode():
        memory = model.denormalise(before)[None]
        shown = torch.stack(model.vae.streaming.last_two(memory, torch.zeros_like(memory)), 1).clamp(-1, 1)
        past = np.zeros((PAST_OPERATIONS, OPERATION_SIZE), np.float32)
        operations = torch.from_numpy(np.concatenate([past, OPERATIONS[0]]))[None]
        reference = refer(model, shown, operations)
        folded = model.vae.streaming(model.denormalise(latent)[None], memory, reference)
    expected = (folded.clamp(-1, 1) + 1) * 127.5
    found = decoder.decode([latent], [StreamPast(before)], [OPERATIONS[0]])[0]
    difference = found.permute(0, 3, 1, 2).reshape(12, 32, 32) - expected[0]
    assert difference.abs().max() <= 1


def test_the_first_frame_comes_early_and_is_the_same():
    decoder, latents = LatentDecoder(referring_model()), torch.randn(3, 4, 4, 4)
    _, past = played(decoder, latents[:2])
    reference = decoder.reference([past], OPERATIONS[:1])
    parts = [*decoder.decode_in_parts([latents[2]], [past.latent], reference)]
    assert [part.shape[1] for part in parts] == [1, 3]
    assert torch.equal(torch.cat(parts, 1), decoder.decode([latents[2]], [past], OPERATIONS[:1]))


def test_a_compiled_decoder_shows_the_same_frames(in_float32):
    latents = torch.randn(4, 4, 4, 4)
    expected, _ = played(LatentDecoder(referring_model()), latents)
    model = referring_model()
    model.may_compile = None
    decoder = LatentDecoder(model)
    assert decoder.is_compiled
    found, _ = played(decoder, latents)
    # What is shown becomes the reference of what follows: differences of rounding add up.
    assert (torch.cat(found).int() - torch.cat(expected).int()).abs().max() <= 3


def consistent_model() -> Model:
    """A model whose decoder ends without a filter and is consistent with its encoder."""
    model = referring_model()
    with torch.no_grad():
        for parameter in model.vae.streaming.deblocking.kernels[-1].parameters():
            parameter.zero_()
    model.load_state_dict(model.state_dict() | consistent(model.state_dict()))
    return model


@torch.inference_mode()
def test_what_is_shown_is_encoded_to_the_latent_that_was_given():
    """With a reference, without, and where it is lost: nothing that is shown grows from chunk to chunk."""
    vae = consistent_model().vae
    # Of detail everywhere the same share is added, and none of it is limited.
    vae.streaming.frame[-2].weight[12:] = 0.0
    vae.streaming.frame[-2].bias[12:] = 0.0
    latent, memory = torch.randn(2, 2, 4, 4, 4)
    is_there, warped = torch.tensor([1.0, 0.0])[:, None, None, None], torch.randn(2, 12, 32, 32) * 0.05
    reference = Reference(
        warped, vae.encoder(warped, 1)[0], torch.randn(2, 1, 4, 4), is_there, torch.zeros(2, 1, 4, 4)
    )
    for given in (reference, None):
        shown = vae.streaming(latent, memory, given)
        torch.testing.assert_close(vae.encoder(shown, 1)[0], latent, rtol=1e-3, atol=1e-3)
    assert (vae.streaming(latent, memory, reference)[0] - shown[0]).abs().mean() > 1e-2


@torch.inference_mode()
def test_where_all_detail_is_kept_a_moved_frame_loses_a_fixed_share_of_it():
    """Pixels that the latent decodes to are unchanged; the detail is clamped to `MAX_DETAIL`, times `MAX_SHARE`."""
    streaming, encoder = (vae := consistent_model().vae).streaming, vae.encoder
    streaming.frame[-2].weight.zero_()
    streaming.frame[-2].bias.zero_()
    streaming.frame[-2].bias[12:] = 50.0
    warped, memory = torch.rand(2, 12, 32, 32) * 2 - 1, torch.randn(2, 4, 4, 4)
    latent = encoder(warped, 1)[0]
    is_there = torch.tensor([1.0, 0.0])[:, None, None, None]
    shown = streaming(
        latent, memory, Reference(warped, latent, torch.zeros(2, 1, 4, 4), is_there, torch.zeros(2, 1, 4, 4))
    )
    plain = streaming(latent, memory)
    seen = unfold_patches(F.conv2d(latent, streaming.encoder_inverse, streaming.encoder_origin))
    assert (warped - seen).abs().max() > 2 * MAX_DETAIL
    detail = (warped - seen).clamp(-MAX_DETAIL, MAX_DETAIL)
    expected = seen + (1 - MAX_SHARE) * (plain - seen) + MAX_SHARE * detail
    torch.testing.assert_close(shown[0], expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shown[1], plain[1])


def test_moved_frames_are_shown_as_they_are_as_far_as_they_are_kept():
    decoder, latents = LatentDecoder(referring_model()), torch.randn(3, 4, 4, 4)
    _, past = played(decoder, latents[:2])
    reference = decoder.reference([past], OPERATIONS[:1])

    def shown(kept: float) -> torch.Tensor:
        given = reference._replace(kept=torch.full_like(reference.kept, kept))
        return torch.cat([*decoder.decode_in_parts([latents[2]], [past.latent], given)], 1)[0].float()

    moved = chunk_pixels(reference.warped.float())[0].float()
    assert torch.equal(shown(1.0), moved)
    assert not reference.kept.any() and (shown(0.0) - moved).abs().mean() > 4
    # Each is rounded.
    clamped = shown(0.25) - (0.75 * shown(0.0) + 0.25 * moved)
    inside = (shown(0.0) % 255 > 0) & (moved % 255 > 0)
    assert clamped[inside].abs().max() <= 1.5
    lost = LatentDecoder(referring_model())
    lost._model.decoder_reference = False
    parts = [reference._replace(kept=torch.full_like(reference.kept, kept)) for kept in (0.0, 1.0)]
    one, other = (torch.cat([*lost.decode_in_parts([latents[2]], [past.latent], p)], 1) for p in parts)
    assert torch.equal(one, other)


@torch.inference_mode()
def test_taking_a_frames_detail_makes_no_more_of_it():
    """It is an orthogonal projection: what the encoder sees is taken away, and nothing is put in its place."""
    streaming, encoder = (vae := consistent_model().vae).streaming, vae.encoder
    frames = torch.randn(3, 12, 32, 32)
    seen = unfold_patches(
        F.conv2d(encoder(frames, 1)[0], streaming.encoder_inverse, streaming.encoder_origin)
    )
    none = torch.zeros(1, 4, 1, 1) + encoder.patch.bias[:, None, None]
    torch.testing.assert_close(encoder(frames - seen, 1)[0], none.expand(3, 4, 4, 4), rtol=1e-3, atol=1e-3)
    origin = unfold_patches(streaming.encoder_origin[None, :, None, None].expand(1, -1, 4, 4))
    assert ((frames - seen) * (seen - origin)).sum().abs() < 1e-2 * seen.square().sum()


def test_weights_without_the_inverse_of_their_encoder_are_given_it():
    """Those of earlier versions have none."""
    model, other = consistent_model(), referring_model()
    weights = model.state_dict()
    earlier = {
        name: weight
        for name, weight in weights.items()
        if not name.endswith(("encoder_inverse", "encoder_origin"))
    }
    assert len(earlier) == len(weights) - 2
    other.load_state_dict(earlier)
    for name, weight in other.state_dict().items():
        torch.testing.assert_close(weight, weights[name])


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"linear_encoder": False}, "linear_encoder is false"), ({}, "there is no motion network")],
)
def test_a_reference_needs_a_linear_encoder_and_a_motion_network(settings, error):
    with pytest.raises(ValueError, match=error):
        vae = dataclasses.replace(
            ModelConfig.tiny().vae, **{"linear_encoder": True, "streaming_reference": True} | settings
        )
        dataclasses.replace(ModelConfig.tiny(), vae=vae)


def test_a_decoder_whose_reference_is_hidden_draws_from_latents_alone(in_float32):
    model = referring_model()
    decoder, latents = LatentDecoder(model), torch.randn(2, 4, 4, 4)
    _, past = played(decoder, latents[:1])
    model.decoder_reference = False
    with torch.inference_mode():
        now, before = (model.denormalise(latent)[None] for latent in (latents[1], latents[0]))
        expected = (model.vae.streaming(now, before).clamp(-1, 1) + 1) * 127.5
        known = Reference.none(now)._replace(is_there=torch.ones(1, 1, 1, 1))
    for reference in (None, known):
        found = torch.cat([*decoder.decode_in_parts([latents[1]], [past.latent], reference)], 1)[0]
        assert (found.permute(0, 3, 1, 2).reshape(12, 32, 32) - expected[0]).abs().max() <= 1
