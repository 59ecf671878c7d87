"""Decoding of latents to pixels, chunk by chunk, by the streaming decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gamegen.device import compute_dtype, one_thread
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.folding import chunk_pixels
from gamegen.models.model import Model
from gamegen.models.onnx import CompiledModule, compiled
from gamegen.models.streaming_decoder import RemainingFrames, StreamingDecoder
from gamegen.models.vae import CausalVideoVAE

Part = Callable[..., Sequence[Tensor]]


class LatentDecoder:
    """Decodes normalised latents with a model's streaming decoder, in the fastest dtype of the device."""

    def __init__(self, model: Model) -> None:
        self._model = model
        # ONNX Runtime computes in float32, which is slower where the device has a faster dtype.
        on_cpu = model.device.type == "cpu"
        self.dtype = torch.float32 if on_cpu and model.may_compile else compute_dtype(model.device)
        may_compile = on_cpu and model.may_compile is not False and self.dtype == torch.float32
        # A copy, so that other users of the model keep float32 weights.
        decoder = CausalVideoVAE(model.config.vae).streaming
        decoder.load_state_dict(model.vae.streaming.state_dict())
        decoder.to(model.device, self.dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        halves: tuple[Part, Part] = self._compiled(decoder) if may_compile else _parts(decoder)
        self._ends, self._between = halves

    @property
    def is_compiled(self) -> bool:
        """True if ONNX Runtime runs the decoder."""
        return isinstance(self._ends, CompiledModule)

    def _compiled(self, decoder: StreamingDecoder) -> tuple[Part, Part]:
        """Both halves of the decoder, compiled if there are graphs of both."""
        ends, between = _parts(decoder)
        latent = torch.zeros(2, *self._model.config.latent_shape)
        with torch.inference_mode():
            _, *remaining = ends(latent, latent)
        may_export = bool(self._model.may_compile)
        graphs = [
            compiled(name, half, example, [(0,)] * len(example), may_export)
            for name, half, example in (
                ("decoder-ends", ends, [latent, latent]),
                ("decoder-between", between, remaining),
            )
        ]
        return (graphs[0], graphs[1]) if graphs[0] and graphs[1] else (ends, between)

    def decode(self, latents: list[Tensor], memories: list[Tensor | None]) -> Tensor:
        """One chunk for each of B streams, uint8 `(B, 4, H, W, 3)`.

        `latents` are `(C, h, w)`; `memories` the latents before them in their streams, None at the start of one.
        """
        return torch.cat([*self.decode_in_parts(latents, memories)], 1)

    def decode_in_parts(self, latents: list[Tensor], memories: list[Tensor | None]) -> Iterator[Tensor]:
        """The chunks of `decode` as they are ready: the first frame, uint8 `(B, 1, H, W, 3)`, then the other three."""
        latent, memory = self._pair(latents, memories)
        first, *remaining = self._run(self._ends, latent, memory)
        yield chunk_pixels(first).cpu()
        (between,) = self._run(self._between, *remaining)
        yield chunk_pixels(torch.cat([between, remaining[0]], 1)).cpu()

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

    def forward(self, latent_NCHW: Tensor, memory_NCHW: Tensor) -> tuple[Tensor, ...]:
        first, last, remaining = self.decoder.ends(latent_NCHW, memory_NCHW)
        return first, last, *remaining


class _MiddleFrames(nn.Module):
    """The two middle frames of a chunk, from its last frame and the tensors of `RemainingFrames`."""

    def __init__(self, decoder: StreamingDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, last_NCHW: Tensor, *remaining: Tensor) -> tuple[Tensor]:
        return (self.decoder.between(last_NCHW, RemainingFrames(*remaining)),)


def _parts(decoder: StreamingDecoder) -> tuple[nn.Module, nn.Module]:
    return _EndFrames(decoder), _MiddleFrames(decoder)


def load_decoder(name_or_path: str | Path, device: torch.device | str | None = None) -> LatentDecoder:
    """The streaming decoder of a checkpoint."""
    return LatentDecoder(load_checkpoint(name_or_path, device).model)
