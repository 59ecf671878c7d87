"""Decoding of latents to pixels, chunk by chunk, by the streaming decoder.

The decoder itself keeps nothing of a stream: its caller passes the `StreamPast` of each, and gets the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from gamegen.controls import OPERATION_SIZE
from gamegen.device import compute_dtype, one_thread
from gamegen.engine.motion_prediction import build_motion_prediction
from gamegen.models.folding import chunk_pixels, from_pixels
from gamegen.models.model import Model
from gamegen.models.motion import PAST_OPERATIONS
from gamegen.models.motion_compensation import no_latent, refer, shown_again
from gamegen.models.onnx import CompiledModule, compiled
from gamegen.models.streaming_decoder import Reference, RemainingFrames, StreamingDecoder
from gamegen.models.vae import CausalVideoVAE
from gamegen.models.view_memory import Recall

Part = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class StreamPast:
    """State of a stream between two chunks, from which a decoder continues it; by default that of a new stream.

    `latent` `(C, h, w)` is its last one, normalised, `frames` uint8 `(2, H, W, 3)` are the last two shown, None where
    they are not known, and `operations` float32 `(PAST_OPERATIONS, O)` those that led there.
    """

    latent: Tensor | None = None
    frames: Tensor | None = None
    operations: np.ndarray = field(
        default_factory=lambda: np.zeros((PAST_OPERATIONS, OPERATION_SIZE), np.float32)
    )

    def next(self, latent: Tensor, frames: Tensor | None, operations: np.ndarray) -> StreamPast:
        """The past after a chunk's latent, frames uint8 `(4, H, W, 3)` and operations `(4, O)`."""
        recent = np.concatenate([self.operations, operations]).astype(np.float32)[-PAST_OPERATIONS:]
        # Copies, so that nothing keeps whole batches.
        return StreamPast(latent, None if frames is None else frames[-2:].clone(), recent)


def last_shown(model: Model, pasts: Sequence[StreamPast]) -> Tensor:
    """The last two frames of streams that have begun, `(B, 2, 3, H, W)` in [-1, 1].

    Where they are not known, the decoder shows them again from the latent.
    """
    none = no_latent(model)
    rows = []
    for past in pasts:
        if past.frames is not None:
            rows.append(from_pixels(past.frames.to(model.device)))
            continue
        assert past.latent is not None
        latent = past.latent[None].float().to(model.device)
        rows.append(shown_again(model, latent, none.expand_as(latent))[0])
    return torch.stack(rows)


class LatentDecoder:
    """Decodes normalised latents with a model's streaming decoder, in the fastest dtype of the device.

    `latent_shape` (C, h, w) is that of the model's default size if None.
    """

    def __init__(self, model: Model, latent_shape: tuple[int, int, int] | None = None) -> None:
        self._model = model
        self._latent_shape = latent_shape or model.config.latent_shape
        # ONNX Runtime computes in float32, which is slower where the device has a faster dtype.
        on_cpu = model.device.type == "cpu"
        self.dtype = torch.float32 if on_cpu and model.may_compile else compute_dtype(model.device)
        may_compile = on_cpu and model.may_compile is not False and self.dtype == torch.float32
        # A copy, so that other users of the model keep float32 weights.
        decoder = CausalVideoVAE(model.config.vae).streaming
        decoder.load_state_dict(model.vae.streaming.state_dict())
        decoder.to(model.device, self.dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._decoder = decoder
        sees = decoder.sees_reference
        self._predict_motion = build_motion_prediction(model, self._latent_shape) if sees else None
        halves: tuple[Part, Part] = self._compiled(decoder) if may_compile else _parts(decoder)
        self._ends, self._between = halves

    @property
    def is_compiled(self) -> bool:
        """True if ONNX Runtime runs the decoder."""
        return isinstance(self._ends, CompiledModule)

    def _compiled(self, decoder: StreamingDecoder) -> tuple[Part, Part]:
        """Both halves of the decoder, compiled if there are graphs of both."""
        ends, between = _parts(decoder)
        latent = torch.zeros(2, *self._latent_shape)
        inputs = [latent, latent, *(Reference.none(latent) if decoder.sees_reference else ())]
        with torch.inference_mode():
            _, *remaining = ends(*inputs)
        may_export = bool(self._model.may_compile)
        graphs = [
            compiled(name, half, example, [(0,)] * len(example), may_export)
            for name, half, example in (
                ("decoder-ends", ends, inputs),
                ("decoder-between", between, remaining),
            )
        ]
        return (graphs[0], graphs[1]) if graphs[0] and graphs[1] else (ends, between)

    def decode(
        self,
        latents: list[Tensor],
        pasts: Sequence[StreamPast],
        operations: Sequence[np.ndarray],
        reference: Reference | None = None,
        recalled: Sequence[Recall | None] = (),
    ) -> Tensor:
        """One chunk for each of B streams, uint8 `(B, 4, H, W, 3)`.

        `latents` are `(C, h, w)`, `operations` float32 `(4, O)`: those under which each chunk was generated, and
        `recalled` what was for each. A `reference` that is known already need not be computed.
        """
        return torch.cat([*self.decode_in_parts(latents, pasts, operations, reference, recalled)], 1)

    def decode_in_parts(
        self,
        latents: list[Tensor],
        pasts: Sequence[StreamPast],
        operations: Sequence[np.ndarray],
        reference: Reference | None = None,
        recalled: Sequence[Recall | None] = (),
    ) -> Iterator[Tensor]:
        """The chunks of `decode` as they are ready: the first frame, uint8 `(B, 1, H, W, 3)`, then the other three."""
        latent, memory = self._pair(latents, [past.latent for past in pasts])
        if not self._model.decoder_reference:
            reference = Reference.none(latent)
        found = self._reference(latent, pasts, operations, recalled) if reference is None else reference
        sees = [part.to(self.dtype) for part in found] if self._decoder.sees_reference else ()
        first, *remaining = self._run(self._ends, latent, memory, *sees)
        yield chunk_pixels(first).cpu()
        (between,) = self._run(self._between, *remaining)
        yield chunk_pixels(torch.cat([between, remaining[0]], 1)).cpu()

    @torch.inference_mode()
    def _reference(
        self,
        latent: Tensor,
        pasts: Sequence[StreamPast],
        operations: Sequence[np.ndarray],
        recalled: Sequence[Recall | None],
    ) -> Sequence[Tensor]:
        """The tensors of the `Reference`, none for a decoder that sees none."""
        if self._predict_motion is None:
            return ()
        reference = Reference.none(latent)
        rows = [i for i, past in enumerate(pasts) if past.latent is not None]
        if not rows:
            return reference
        shown = last_shown(self._model, [pasts[i] for i in rows])
        steps = [np.concatenate([pasts[i].operations, operations[i]]) for i in rows]
        with one_thread(self.is_compiled):
            found = refer(
                self._model,
                shown,
                torch.from_numpy(np.stack(steps)).float().to(latent.device),
                self._predict_motion,
                [recalled[i] for i in rows] if recalled else (),
            )
        for whole, part in zip(reference, found, strict=True):
            whole[rows] = part.to(whole.dtype)
        return reference

    @torch.inference_mode()
    def _run(self, half: Part, *tensors: Tensor) -> Sequence[Tensor]:
        with one_thread(self.is_compiled):
            return half(*tensors)

    def _pair(self, latents: list[Tensor], memories: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        """Denormalised latents and the latents before them, each `(B, C, h, w)`."""
        device = self._model.device
        now = self._model.denormalise(torch.stack(latents).float().to(device))
        before = [
            torch.zeros_like(now[0]) if m is None else self._model.denormalise(m.float().to(device))
            for m in memories
        ]
        return now.to(self.dtype), torch.stack(before).to(self.dtype)


class _EndFrames(nn.Module):
    """First and last frame of a chunk, and the `RemainingFrames`, as a flat tuple of tensors."""

    def __init__(self, decoder: StreamingDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent_NCHW: Tensor, memory_NCHW: Tensor, *reference: Tensor) -> tuple[Tensor, ...]:
        first, last, remaining = self.decoder.ends(
            latent_NCHW, memory_NCHW, Reference(*reference) if reference else None
        )
        return first, last, *(tensor for tensor in remaining if tensor is not None)


class _MiddleFrames(nn.Module):
    """The two middle frames of a chunk, from its last frame and the tensors of `RemainingFrames`."""

    def __init__(self, decoder: StreamingDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, last_NCHW: Tensor, *remaining: Tensor) -> tuple[Tensor]:
        return (self.decoder.between(last_NCHW, RemainingFrames(*remaining)),)


def _parts(decoder: StreamingDecoder) -> tuple[nn.Module, nn.Module]:
    return _EndFrames(decoder), _MiddleFrames(decoder)
