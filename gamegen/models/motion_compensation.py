"""Motion-compensated latents: the encoding of the frame shown last, warped to each frame of the next chunk.

What is merely moved is then given to the diffusion model where it belongs, which leaves it to draw what is new. Video
codecs call it motion compensation; as the condition of a latent diffusion model it is the idea of GameGen-X's
continuation (section 3.2) with the motion taken out.

They are made from the last two frames that were shown, whose detail no latent holds: warped chunk after chunk from what
latents decode to, a picture would lose it.

Shape suffixes as in `vae.py`; O operations of `NUM_OPERATIONS` frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK, SPATIAL_FACTOR
from gamegen.models.folding import fold_frames, from_pixels, unfold_frames
from gamegen.models.layered_warp import Layers, split_layers
from gamegen.models.model import Model
from gamegen.models.motion import FINE, PAST_OPERATIONS, MotionPrediction, PredictedMotion
from gamegen.models.streaming_decoder import Reference
from gamegen.models.view_memory import RecalledView

PAST_CHUNKS = PAST_OPERATIONS // FRAMES_PER_CHUNK
"""Chunks whose operations a prediction reads, besides the predicted chunk's own."""
PredictMotion = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
"""The tensors of a `PredictedMotion` as `MotionPrediction` computes them."""
CARRIED_CHUNKS = 8
"""Chunks, over a second, after which `carry_stream` looks at a stream again."""
_USUAL_LOG_ERROR = -2.5
_UNSEEN_LOG_ERROR = -1.0
"""That of places of which the last frame shows nothing: what is filled in there is a guess."""
_PER_PASS = 16
"""Latents of a stream that are computed together: few enough for the memory, enough for the cores."""


class Compensated(NamedTuple):
    """Motion-compensated latents `(N, C, h, w)` and their confidence `(N, 1, h, w)`, float32.

    The confidence is the negative logarithm of the error that the motion network expects, about 0 on average.
    """

    latent: Tensor
    confidence: Tensor


def refer(
    model: Model,
    shown_N2CHW: Tensor,
    operations_NO9: Tensor,
    predict: PredictMotion | None = None,
) -> Reference:
    """The frame shown last, moved to each frame of the next chunk, and what the encoder makes of that.

    `shown` are the last two frames that were shown, in [-1, 1]. Operations are `(N, NUM_OPERATIONS, 9)`, those of the
    next chunk last. `predict` computes what the model's motion network does, elsewhere. Raises ValueError if the model
    has no motion network.
    """
    motion = predict_motion(model, shown_N2CHW, operations_NO9, predict)
    layers = split_layers(motion)
    frames = layers.move(shown_N2CHW[:, 1].to(motion.flow.dtype))
    return as_reference(model, frames, motion, layers)


def predict_motion(
    model: Model, shown_N2CHW: Tensor, operations_NO9: Tensor, predict: PredictMotion | None = None
) -> PredictedMotion:
    """The motion of the next chunk; arguments and errors as in `refer`."""
    if model.motion is None:
        raise ValueError("this model has no motion network: train one (gamegen train motion --init ...)")
    dtype = model.vae.encoder.patch.weight.dtype
    shown = shown_N2CHW.to(dtype)
    predict = predict or MotionPrediction(model.motion)
    return PredictedMotion(*predict(shown[:, 1], shown[:, 0], operations_NO9.to(dtype)))


def as_reference(
    model: Model,
    frames_N4CHW: Tensor,
    motion: PredictedMotion,
    layers: Layers,
    views: Sequence[Sequence[RecalledView]] = (),
) -> Reference:
    """The reference of moved frames, completed by the views that are recalled for each of its rows, one by one."""
    log_error = motion.log_error.masked_fill(layers.unseen > 0, _UNSEEN_LOG_ERROR)
    if any(views):
        # The caller's frames stay as they are.
        frames_N4CHW = frames_N4CHW.clone()
    for row, laid in enumerate(views):
        row_layers = layers.row(row)
        for view in laid:
            frames, filled = view.lay_into(frames_N4CHW[row], row_layers)
            frames_N4CHW[row] = frames.to(frames_N4CHW.dtype)
            log_error[row] += filled * (_USUAL_LOG_ERROR - log_error[row])
            row_layers = row_layers.filled(filled)
    warped = fold_frames(frames_N4CHW.to(model.vae.encoder.patch.weight.dtype))
    latent, _ = model.vae.encoder(warped, 1)
    confidence = _confidence(log_error)
    is_there = warped.new_ones(len(warped), 1, 1, 1)
    return Reference(warped, latent, confidence, is_there, kept=torch.zeros_like(confidence))


def compensate(
    model: Model,
    shown_N2CHW: Tensor,
    operations_NO9: Tensor,
    predict: PredictMotion | None = None,
) -> Compensated:
    """Predicts the next chunk's latents as the autoencoder gives them; arguments and errors as in `refer`."""
    found = refer(model, shown_N2CHW, operations_NO9, predict)
    return Compensated(found.latent.float(), found.confidence.float())


def shown_again(model: Model, last_NCHW: Tensor, before_NCHW: Tensor) -> Tensor:
    """The last two frames of normalised latents as the streaming decoder draws them without a reference.

    `before` are the latents before them, `no_latent` where a stream begins. Returns `(N, 2, 3, H, W)` in [-1, 1].
    """
    decoder = model.vae.streaming
    last, before = (model.denormalise(x).to(decoder.patch.weight.dtype) for x in (last_NCHW, before_NCHW))
    return torch.stack(decoder.last_two(last, before), 1).clamp(-1, 1)


def _confidence(log_error_N4qr: Tensor) -> Tensor:
    """Confidence on the grid of latents, as in `Compensated`."""
    return _USUAL_LOG_ERROR - F.avg_pool2d(log_error_N4qr.mean(1, keepdim=True), SPATIAL_FACTOR // FINE)


def compensate_stream(model: Model, frames: Tensor, operations_T4O: Tensor) -> Compensated:
    """The motion-compensated latents of a whole stream, as the autoencoder gives them; zeros for the first.

    `frames` uint8 `(4T, H, W, 3)` are those that were shown, or recorded.
    """
    T = len(operations_T4O)
    operations = recent_operations(operations_T4O[None].float())[0]
    chunks = frames.unflatten(0, (T, FRAMES_PER_CHUNK))
    found = [
        compensate(model, from_pixels(shown), recent)
        for shown, recent in zip(
            chunks[: T - 1, -2:].split(_PER_PASS), operations[1:].split(_PER_PASS), strict=True
        )
        if len(shown)
    ]
    rows, columns = (side // SPATIAL_FACTOR for side in frames.shape[1:3])
    latent = operations.new_zeros(T, model.config.vae.latent_channels, rows, columns)
    confidence = torch.zeros_like(latent[:, :1])
    if found:
        latent[1:] = torch.cat([part.latent for part in found])
        confidence[1:] = torch.cat([part.confidence for part in found])
    return Compensated(latent, confidence)


def carry_stream(
    model: Model, frames: Tensor, operations_T4O: Tensor, max_chunks: int = CARRIED_CHUNKS
) -> Tensor:
    """Motion-compensated latents of a stream, `(T, C, h, w)`, of frames that have been moved for up to `max_chunks`.

    Of every `max_chunks` chunks only the first is seen; those after it are moved from what it showed. This is what a
    world looks like of which nothing is drawn anew. Arguments as in `compensate_stream`; zeros for the first chunk.
    """
    T = len(operations_T4O)
    operations = recent_operations(operations_T4O[None].float())[0]
    seen = torch.arange(0, T - 1, max_chunks)
    shown = from_pixels(frames.unflatten(0, (T, FRAMES_PER_CHUNK))[seen, -2:])
    rows, columns = (side // SPATIAL_FACTOR for side in frames.shape[1:3])
    latent = operations.new_zeros(T, model.config.vae.latent_channels, rows, columns)
    for step in range(1, max_chunks + 1):
        # The last ones may be near the stream's end.
        chunk = seen[: int((seen + step < T).sum())] + step
        if not len(chunk):
            break
        found = refer(model, shown[: len(chunk)], operations[chunk])
        latent[chunk] = found.latent.float()
        shown = unfold_frames(found.warped, 1)[:, -2:].float().clamp(-1, 1)
    return latent


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
