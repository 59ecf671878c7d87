"""Motion-compensated latents: the code of the frames that the motion network foresees, for each next chunk.

What is merely moved is then given to the diffusion model where it belongs, which leaves it to draw what is new. Video
codecs call it motion compensation; as the condition of a latent diffusion model it is the idea of GameGen-X's
continuation (section 3.2) with the motion taken out.

Everything is computed from latents and operations, so a session's snapshot needs nothing else. Shape suffixes as in
`vae.py`; O operations of `NUM_OPERATIONS` frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK, SPATIAL_FACTOR
from gamegen.models.folding import fold_frames, unfold_frames
from gamegen.models.model import Model
from gamegen.models.motion import FINE, PAST_OPERATIONS, FlowPrediction
from gamegen.models.streaming_decoder import Reference
from gamegen.models.warping import resize_flow, warp

PAST_CHUNKS = PAST_OPERATIONS // FRAMES_PER_CHUNK
"""Chunks whose operations a prediction reads, besides the predicted chunk's own."""
PredictFlow = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
"""Flow and logarithmic error as `FlowPrediction` computes them."""
_USUAL_LOG_ERROR = -2.5
_PER_PASS = 16
"""Latents of a stream that are computed together: few enough for the memory, enough for the cores."""


class Compensated(NamedTuple):
    """Motion-compensated latents `(N, C, h, w)` and their confidence `(N, 1, h, w)`, float32.

    The confidence is the negative logarithm of the error that the motion network expects, about 0 on average.
    """

    latent: Tensor
    confidence: Tensor


def compensate(
    model: Model,
    last_NCHW: Tensor,
    before_NCHW: Tensor,
    operations_NO9: Tensor,
    predict: PredictFlow | None = None,
) -> Compensated:
    """Predicts the latents after `last` from it, the latents before it and the operations up to those of the chunk.

    Latents are as the autoencoder gives them; `before` is zeros where the stream begins with `last`. Operations are
    `(N, NUM_OPERATIONS, 9)`, those of the predicted chunk last. `predict` computes what the model's motion network
    does, elsewhere. Raises ValueError if the model has no motion network.
    """
    if model.motion is None:
        raise ValueError("this model has no motion network: train one (gamegen train motion --init ...)")
    vae, dtype = model.vae, model.vae.streaming.patch.weight.dtype
    last, before = last_NCHW.to(dtype), before_NCHW.to(dtype)
    if vae.encoder.is_linear:
        shown = torch.stack(vae.streaming.last_two(last, before), 1).clamp(-1, 1)
        source = vae.encoder.least_squares_decode(last, model.mean_C)[:, -3:]
    else:
        shown = unfold_frames(vae.streaming(last, before), 1).clamp(-1, 1)
        source = shown[:, -1]
    predict = predict or FlowPrediction(model.motion)
    flow, log_error = predict(shown[:, -1], shown[:, -2], operations_NO9.to(dtype))
    moved = _moved(source, flow)
    # Other encoders mix each chunk with the one before it.
    chunks = moved if vae.encoder.is_linear else torch.cat([shown, moved], 1)
    num_chunks = chunks.shape[1] // FRAMES_PER_CHUNK
    mean, _ = vae.encoder(fold_frames(chunks), num_chunks)
    return Compensated(mean.unflatten(0, (-1, num_chunks))[:, -1], _confidence(log_error))


def refer(
    model: Model,
    shown_N2CHW: Tensor,
    operations_NO9: Tensor,
    predict: PredictFlow | None = None,
) -> Reference:
    """The reference for the streaming decoder's next chunk: the frame shown last, moved.

    `shown` are the last two frames that were shown, in [-1, 1]; operations and `predict` as in `compensate`.
    """
    assert model.motion is not None
    predict = predict or FlowPrediction(model.motion)
    flow, log_error = predict(shown_N2CHW[:, 1], shown_N2CHW[:, 0], operations_NO9)
    warped = fold_frames(_moved(shown_N2CHW[:, 1], flow))
    latent, _ = model.vae.encoder(warped, 1)
    return Reference(warped, latent, _confidence(log_error), warped.new_ones(len(warped), 1, 1, 1))


def _moved(frame_NCHW: Tensor, flow_N4tqr: Tensor) -> Tensor:
    """A chunk's frames `(N, 4, C, H, W)`: one frame, moved."""
    return warp(frame_NCHW, resize_flow(flow_N4tqr, *frame_NCHW.shape[-2:])).to(frame_NCHW.dtype)


def _confidence(log_error_N4qr: Tensor) -> Tensor:
    """Confidence on the grid of latents, as in `Compensated`."""
    return _USUAL_LOG_ERROR - F.avg_pool2d(log_error_N4qr.mean(1, keepdim=True), SPATIAL_FACTOR // FINE)


def compensate_normalised(
    model: Model,
    last_NCHW: Tensor,
    before_NCHW: Tensor,
    operations_NO9: Tensor,
    predict: PredictFlow | None = None,
) -> Compensated:
    """`compensate` with normalised latents, those given and those returned."""
    last, before = model.denormalise(last_NCHW), model.denormalise(before_NCHW)
    found = compensate(model, last, before, operations_NO9, predict)
    return Compensated(model.normalise(found.latent), found.confidence)


def compensate_stream(model: Model, latents_TCHW: Tensor, operations_T4O: Tensor) -> Compensated:
    """The motion-compensated latents of a whole stream, as the autoencoder gives them; zeros for the first."""
    latents, operations = latents_TCHW.float(), recent_operations(operations_T4O[None].float())[0]
    before = torch.cat([torch.zeros_like(latents[:1]), latents[:-2]])
    found = [
        compensate(model, *part)
        for part in zip(
            latents[:-1].split(_PER_PASS),
            before[: len(latents) - 1].split(_PER_PASS),
            operations[1:].split(_PER_PASS),
            strict=True,
        )
    ]
    latent = torch.zeros_like(latents)
    confidence = torch.zeros_like(latents[:, :1])
    if found:
        latent[1:] = torch.cat([part.latent for part in found])
        confidence[1:] = torch.cat([part.confidence for part in found])
    return Compensated(latent, confidence)


def no_latent(model: Model) -> Tensor:
    """What stands, normalised, for the latent before a stream's first one: zeros to the decoder, `(C, 1, 1)`."""
    return model.normalise(torch.zeros_like(model.mean_C))


def recent_operations(operations_BT4O: Tensor, past_BP4O: Tensor | None = None) -> Tensor:
    """Operations that lead to the end of each chunk, `(B, T, NUM_OPERATIONS, O)`.

    `operations` `(B, T, 4, O)` are those of each chunk's frames, `past` `(B, PAST_CHUNKS, 4, O)` those before the
    first chunk, zeros if None.
    """
    T = operations_BT4O.shape[1]
    past = (
        torch.zeros_like(operations_BT4O[:, :1]).repeat(1, PAST_CHUNKS, 1, 1)
        if past_BP4O is None
        else past_BP4O
    )
    whole = torch.cat([past, operations_BT4O], 1)
    return torch.cat([whole[:, i : i + T] for i in range(PAST_CHUNKS + 1)], 2)
