"""Decoding of latents to pixels, chunk by chunk, by the streaming decoder.

The decoder itself keeps nothing of a stream: its caller passes the `StreamPast` of each, and gets the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from gamegen.controls import OPERATION_SIZE
from gamegen.device import compute_dtype, one_thread
from gamegen.engine.motion_prediction import build_motion_prediction
from gamegen.models.folding import chunk_pixels, from_pixels
from gamegen.models.model import Model
from gamegen.models.motion import PAST_OPERATIONS
from gamegen.models.motion_compensation import PredictMotion, no_latent, refer, shown_again
from gamegen.models.onnx import CompiledModule, compiled
from gamegen.models.streaming_decoder import Reference, RemainingFrames, StreamingDecoder
from gamegen.models.vae import CausalVideoVAE

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
        halves: tuple[Part, Part] = self._compiled(decoder) if may_compile else _parts(decoder)
        self._ends, self._between = halves

    @cached_property
    def predict_motion(self) -> PredictMotion | None:
        """The motion network that `reference` runs, built when it is first needed; None if the decoder sees none."""
        sees = self._decoder.sees_reference
        return build_motion_prediction(self._model, self._latent_shape) if sees else None

    @property
    def is_compiled(self) -> bool:
        """True if ONNX Runtime runs the decoder."""
        return isinstance(self._ends, CompiledModule)

    def _compiled(self, decoder: StreamingDecoder) -> tuple[Part, Part]:
        """Both halves of the decoder, compiled if there are graphs of both."""
        ends, between = _parts(decoder)
        latent = torch.zeros(2, *self._latent_shape)
        inputs = [latent, latent, *(_seen(Reference.none(latent)) if decoder.sees_reference else ())]
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
    ) -> Tensor:
        """One chunk for each of B streams, uint8 `(B, 4, H, W, 3)`.

        `latents` are `(C, h, w)`, `operations` float32 `(4, O)`: those under which each chunk was generated.
        """
        memories, reference = [past.latent for past in pasts], self.reference(pasts, operations)
        return torch.cat([*self.decode_in_parts(latents, memories, reference)], 1)

    def decode_in_parts(
        self, latents: list[Tensor], memories: Sequence[Tensor | None], reference: Reference | None
    ) -> Iterator[Tensor]:
        """The chunks of B streams as they are ready: the first frame, uint8 `(B, 1, H, W, 3)`, then the other three.

        `memories` are the latents before, None where a stream begins, `reference` what `reference` returns.
        """
        latent, memory = self._pair(latents, memories)
        if not self._decoder.sees_reference or not self._model.decoder_reference or reference is None:
            reference = Reference.none(latent)
        reference = Reference(*(part.to(latent) for part in reference))
        sees = _seen(reference) if self._decoder.sees_reference else ()
        first, *remaining = self._run(self._ends, latent, memory, *sees)
        yield chunk_pixels(reference.show_kept(first, (0,))).cpu()
        (between,) = self._run(self._between, *remaining)
        others = reference.show_kept(torch.cat([between, remaining[0]], 1), (1, 2, 3))
        yield chunk_pixels(others).cpu()

    @torch.inference_mode()
    def reference(self, pasts: Sequence[StreamPast], operations: Sequence[np.ndarray]) -> Reference | None:
        """The reference for each stream's next chunk, float16; None for a decoder that sees none.

        Where a stream begins there is none. `operations` as in `decode`; no earlier views are recalled.
        """
        rows = [i for i, past in enumerate(pasts) if past.latent is not None]
        if self.predict_motion is None or not rows:
            return None
        steps = np.stack([np.concatenate([pasts[i].operations, operations[i]]) for i in rows])
        with one_thread(self.is_compiled):
            found = refer(
                self._model,
                last_shown(self._model, [pasts[i] for i in rows]),
                torch.from_numpy(steps).float().to(self._model.device),
                self.predict_motion,
            )
        known = {i: found.row(number) for number, i in enumerate(rows)}
        latent = found.latent.new_zeros(len(pasts), *found.latent.shape[1:], dtype=torch.float16)
        return Reference.batch([known.get(i) for i in range(len(pasts))], latent)

    @torch.inference_mode()
    def _run(self, half: Part, *tensors: Tensor) -> Sequence[Tensor]:
        with one_thread(self.is_compiled):
            return half(*tensors)

    def _pair(self, latents: list[Tensor], memories: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
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
        seen = None
        if reference:
            warped, latent, confidence, is_there = reference
            # What is kept is not the network's.
            kept = torch.zeros_like(confidence)
            seen = Reference(warped, latent, confidence, is_there, kept)
        first, last, remaining = self.decoder.ends(latent_NCHW, memory_NCHW, seen)
        return first, last, *(tensor for tensor in remaining if tensor is not None)


class _MiddleFrames(nn.Module):
    """The two middle frames of a chunk, from its last frame and the tensors of `RemainingFrames`."""

    def __init__(self, decoder: StreamingDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, last_NCHW: Tensor, *remaining: Tensor) -> tuple[Tensor]:
        return (self.decoder.between(last_NCHW, RemainingFrames(*remaining)),)


def _seen(reference: Reference) -> tuple[Tensor, ...]:
    """The parts of a reference that the decoder's network sees."""
    return reference[:-1]


def _parts(decoder: StreamingDecoder) -> tuple[nn.Module, nn.Module]:
    return _EndFrames(decoder), _MiddleFrames(decoder)
