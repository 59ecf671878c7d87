"""Forward passes of both networks over one new latent frame of every session: direct, or compiled.

The networks read texts and cached frames from objects. `FramePass` takes all of that as tensors and returns the new
frame's keys and values as tensors, so that the whole pass can be compiled (`gamegen.models.onnx`); it calls the
networks themselves, so its results are theirs.

Shape suffixes as in `msdit.py`, and N cross-attentions, R KV caches, K heads, W cached frames, E head width.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from gamegen.constants import FRAMES_PER_CHUNK, SPATIAL_FACTOR
from gamegen.controls import OPERATION_SIZE
from gamegen.models.attention import CrossAttention, TextKVCache
from gamegen.models.instructnet import ControlInputs, InstructNet, temporal_attentions
from gamegen.models.kv_cache import CachedKV, CacheView, KVCache, KVCaches
from gamegen.models.msdit import PATCH, MSDiT
from gamegen.models.network_inputs import Previous, Text, VideoFormat
from gamegen.models.onnx import compiled, is_kept
from gamegen.models.rotary import Rotation

logger = logging.getLogger(__name__)


class TextKV(NamedTuple):
    """Keys and values of a batch of texts in each of N cross-attentions.

    `keys` and `values` `(N, B, K, L, E)`, bool `mask` `(B, 1, 1, L)`, `pooled` `(B, D)`.
    """

    pooled: Tensor
    mask: Tensor
    keys: Tensor
    values: Tensor

    @classmethod
    def from_text(cls, text: Text, text_in: nn.Module, layers: list[CrossAttention]) -> TextKV:
        """Keys and values of `text`, embedded by `text_in`, in each of `layers`."""
        tokens = text_in(text.tokens.to(layers[0].query.weight.dtype))
        keys, values, masks = zip(*(layer.keys_values(tokens, text.mask) for layer in layers), strict=True)
        return cls(text.pooled, masks[0], torch.stack(keys), torch.stack(values))

    def to_text(self, layers: list[CrossAttention], *embedders: nn.Module) -> Text:
        """A text for the networks whose keys and values in `layers` are these; `embedders` embed nothing any more."""
        results: dict[Any, Any] = {
            layer: (self.keys[i], self.values[i], self.mask) for i, layer in enumerate(layers)
        }
        results |= dict.fromkeys(embedders, self.pooled) | {"is_empty": False}
        return Text(self.pooled, self.mask, self.pooled, TextKVCache.from_precomputed(results))


class Frame(NamedTuple):
    """Noisy latent frame, its noise level, and the latent before it: see `MSDiT.forward` and `Previous`.

    `confidence` is None in networks without motion compensation.
    """

    x_BTCHW: Tensor
    level_BT: Tensor
    previous: Tensor
    noisy_previous: Tensor
    previous_level_BT: Tensor
    confidence: Tensor | None = None

    @classmethod
    def of(cls, x_BTCHW: Tensor, level_BT: Tensor, previous: Previous) -> Frame:
        """The frame with its `Previous` taken apart."""
        return cls(x_BTCHW, level_BT, previous.latent, previous.noisy, previous.level, previous.confidence)

    def as_previous(self) -> Previous:
        """The `Previous` that the frame was made of."""
        return Previous(self.previous, self.noisy_previous, self.previous_level_BT, self.confidence)

    def tensors(self) -> list[Tensor]:
        """The fields that are not None."""
        return [tensor for tensor in self if tensor is not None]


class FrameControls(NamedTuple):
    """Operations `(B, 1, 4, O)`, whether there are any, the instruction's gate, both `(B, 1)`; see `ControlInputs`."""

    operations: Tensor
    has_operations: Tensor
    instruction_active: Tensor


class PrecomputedKV:
    """KV cache of one temporal attention whose cached frames are given.

    `new` holds the new frame's rotated keys, and values, each `(B, S, K, 1, E)`, once the attention has run.
    """

    def __init__(self, past: CachedKV) -> None:
        self._past = past
        self.new: tuple[Tensor, Tensor] | None = None

    def past(self) -> CachedKV:
        """The given frames."""
        return self._past

    def stage(self, k: Tensor, v: Tensor) -> None:
        """Takes the new frame's rotated keys, and values."""
        self.new = k, v


def _precomputed(tensors: Sequence[Tensor]) -> list[PrecomputedKV]:
    """Caches from the tensors of `_past_tensors`."""
    (mask, cos, sin, far_cos, far_sin), rest = tensors[:5], tensors[5:]
    view = CacheView(mask, Rotation(cos, sin), Rotation(far_cos, far_sin))
    half = len(rest) // 2
    pairs = zip(rest[:half], rest[half:], strict=True)
    return [PrecomputedKV(CachedKV(keys, values, view)) for keys, values in pairs]


def _past_tensors(caches: Sequence[KVCache]) -> list[Tensor]:
    """The five tensors of the shared view, then the keys, then the values of every cache."""
    pasts = [cache.past() for cache in caches]
    view = pasts[0].view
    shared = [view.mask, view.rotation.cos, view.rotation.sin, view.far.cos, view.far.sin]
    return [*shared, *(past.keys for past in pasts), *(past.values for past in pasts)]


class FramePass(nn.Module):
    """Forward pass as a function of tensors: `(frame, prompt, controls, instruction, past)`, flattened.

    Returns the velocity `(B, 1, C, H, W)` and the new frame's rotated keys, and values, `(R, B, S, K, E)`.
    """

    def __init__(self, foundation: MSDiT, instructnet: InstructNet, video_format: VideoFormat) -> None:
        super().__init__()
        self.foundation, self.instructnet = foundation, instructnet
        self.video_format = video_format

    @property
    def prompt_layers(self) -> list[CrossAttention]:
        """Cross-attentions to the prompt."""
        return [cast(CrossAttention, block.cross) for block in self.foundation.blocks]

    @property
    def instruction_layers(self) -> list[CrossAttention]:
        """Cross-attentions to the instruction."""
        return [cast(CrossAttention, block.instruction) for block in self.instructnet.blocks]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frame, prompt, given, instruction_kv, past = self._unflatten(tensors)
        caches = _precomputed(past)
        instruction = instruction_kv.to_text(self.instruction_layers, self.instructnet)
        controls = ControlInputs(
            given.operations, given.has_operations, instruction, given.instruction_active
        )
        velocity = self.foundation(
            frame.x_BTCHW,
            frame.level_BT,
            frame.as_previous(),
            prompt.to_text(self.prompt_layers, self.foundation),
            self.video_format,
            self.instructnet.bind(controls),
            caches,
        )
        new = [cache.new for cache in caches if cache.new is not None]
        keys, values = (torch.stack([pair[i].squeeze(3) for pair in new]) for i in (0, 1))
        return velocity, keys, values

    @property
    def num_frame_tensors(self) -> int:
        """Tensors of a frame that this network reads."""
        return len(Frame._fields) - (not self.foundation.config.motion_compensation)

    def _unflatten(
        self, tensors: tuple[Tensor, ...]
    ) -> tuple[Frame, TextKV, FrameControls, TextKV, list[Tensor]]:
        """Rebuilds the parts of a pass from its flat tensors; the tensors of the past come last."""
        rest = iter(tensors)

        def part(kind: Any, count: int) -> Any:
            return kind(*itertools.islice(rest, count))

        return (
            part(Frame, self.num_frame_tensors),
            part(TextKV, len(TextKV._fields)),
            part(FrameControls, len(FrameControls._fields)),
            part(TextKV, len(TextKV._fields)),
            list(rest),
        )


@dataclass(frozen=True)
class FrameInputs:
    """Inputs of the networks for one latent frame, besides its noisy latent; equal in all of its denoising steps."""

    prompt: Text
    controls: ControlInputs
    previous: Previous


class DirectFramePass:
    """Forward pass by calling the networks, for frames of `size` (width and height in pixels)."""

    def __init__(self, foundation: MSDiT, instructnet: InstructNet, size: tuple[int, int]) -> None:
        self._foundation, self._instructnet = foundation, instructnet
        self._video_format = VideoFormat(aspect_ratio=size[0] / size[1])

    def __call__(self, x_BTCHW: Tensor, level_BT: Tensor, inputs: FrameInputs, caches: KVCaches) -> Tensor:
        """Velocity `(B, 1, C, H, W)`; stages the new frame in the selected slots of `caches`."""
        control = self._instructnet.bind(inputs.controls)
        return self._foundation(
            x_BTCHW, level_BT, inputs.previous, inputs.prompt, self._video_format, control, caches.rings
        )


class CompiledFramePass:
    """Compiled forward pass for frames of one size; its results equal those of `DirectFramePass` up to rounding."""

    def __init__(self, frame_pass: FramePass, module: Callable[..., Sequence[Tensor]]) -> None:
        self._pass, self._compiled = frame_pass, module

    @classmethod
    def by_torch(cls, frame_pass: FramePass, backend: str = "inductor") -> CompiledFramePass:
        """Compiles with `torch.compile`: one graph for a single session and one for any number, texts of any length."""
        return cls(frame_pass, torch.compile(frame_pass, fullgraph=True, dynamic=True, backend=backend))

    def __call__(self, x_BTCHW: Tensor, level_BT: Tensor, inputs: FrameInputs, caches: KVCaches) -> Tensor:
        """Velocity `(B, 1, C, H, W)`; stages the new frame in the selected slots of `caches`."""
        networks, controls = self._pass, inputs.controls
        parts = (
            Frame.of(x_BTCHW, level_BT, inputs.previous).tensors(),
            self._text_kv(inputs.prompt, networks.foundation.text_in, networks.prompt_layers),
            FrameControls(controls.operations, controls.has_operations, controls.instruction_active),
            self._text_kv(controls.instruction, networks.instructnet.text_in, networks.instruction_layers),
        )
        tensors = [*(tensor for part in parts for tensor in part), *_past_tensors(caches.rings)]
        velocity, keys, values = self._compiled(*tensors)
        for ring, k, v in zip(caches.rings, keys, values, strict=True):
            ring.stage(k[..., None, :], v[..., None, :])
        return velocity

    def _text_kv(self, text: Text, text_in: nn.Module, layers: list[CrossAttention]) -> TextKV:
        return text.cache.get(self, lambda: TextKV.from_text(text, text_in, layers))


def build_frame_pass(
    foundation: MSDiT,
    instructnet: InstructNet,
    size: tuple[int, int],
    may_compile: bool | None,
    int8_layers: Sequence[str] = (),
) -> CompiledFramePass | DirectFramePass:
    """The fastest forward pass available for frames of `size` (width and height in pixels).

    On a CPU, `may_compile` True exports a missing ONNX graph, None uses a kept one and exports none, False uses
    PyTorch; see `gamegen.models.onnx`. The layers named in `int8_layers` are quantised in the graph. On other devices
    `torch.compile` is used only with True, because its first chunks take a minute.
    """
    if may_compile and foundation.device.type != "cpu":
        return CompiledFramePass.by_torch(_frame_pass(foundation, instructnet, size))
    if may_compile is not False:
        frame_pass = _frame_pass(foundation, instructnet, size)
        example = _example(frame_pass, size)
        axes = _dynamic_axes(frame_pass.num_frame_tensors, len(example))
        module = compiled("pass", frame_pass, example, axes, bool(may_compile))
        if module is not None:
            return CompiledFramePass(
                frame_pass, module.in_int8(frame_pass, int8_layers) if int8_layers else module
            )
        if int8_layers:
            logger.warning(
                "no compiled graph for %dx%d: computing in float32, not int8; run gamegen compile", *size
            )
    return DirectFramePass(foundation, instructnet, size)


def has_graph(foundation: MSDiT, instructnet: InstructNet, size: tuple[int, int]) -> bool:
    """True if an ONNX graph is kept for frames of `size` (width and height in pixels)."""
    frame_pass = _frame_pass(foundation, instructnet, size)
    return is_kept("pass", frame_pass, _example(frame_pass, size))


def run_on_noise(foundation: MSDiT, instructnet: InstructNet, size: tuple[int, int]) -> None:
    """Runs one pass on random inputs, so that every layer sees activations of about the scale it has in play."""
    frame_pass = _frame_pass(foundation, instructnet, size)
    random = torch.Generator().manual_seed(0)

    def noise(x: Tensor) -> Tensor:
        if x.dtype == torch.bool:
            return x
        # Noise levels, one per frame, are between 0 and 1.
        sample = torch.rand if x.shape[1:] == (1,) else torch.randn
        return sample(x.shape, generator=random)

    frame_pass(*(noise(x).to(foundation.device) for x in _example(frame_pass, size)))


def _frame_pass(foundation: MSDiT, instructnet: InstructNet, size: tuple[int, int]) -> FramePass:
    return FramePass(foundation, instructnet, VideoFormat(aspect_ratio=size[0] / size[1])).eval()


def _example(frame_pass: FramePass, size: tuple[int, int]) -> list[Tensor]:
    """Example inputs for the export: two sessions and texts of two lengths, whose axes are dynamic."""
    config, B = frame_pass.foundation.config, 2
    width, height = (length // SPATIAL_FACTOR for length in size)
    K, E, S = config.num_heads, config.width // config.num_heads, height * width // PATCH**2
    W, R = (
        config.window - 1 + config.anchors,
        len(temporal_attentions(frame_pass.foundation, frame_pass.instructnet)),
    )

    def text(length: int, layers: list[CrossAttention]) -> TextKV:
        keys = torch.zeros(len(layers), B, K, length, E)
        return TextKV(
            torch.zeros(B, config.text_width), torch.ones(B, 1, 1, length, dtype=torch.bool), keys, keys
        )

    latent, level = torch.zeros(B, 1, config.latent_channels, height, width), torch.zeros(B, 1)
    rotation = torch.zeros(B, 1, 1, 1, E // 2)
    keys, values = torch.zeros(B, S, K, E, W), torch.zeros(B, S, K, W, E)
    operations = torch.zeros(B, 1, FRAMES_PER_CHUNK, OPERATION_SIZE)
    confidence = latent[:, :, :1] if config.motion_compensation else None
    parts = (
        Frame(latent, level, latent, latent, level, confidence).tensors(),
        text(5, frame_pass.prompt_layers),
        FrameControls(operations, torch.ones(B, 1, dtype=torch.bool), level),
        text(3, frame_pass.instruction_layers),
    )
    past = [torch.ones(B, 1, 1, 1, W, dtype=torch.bool), *[rotation] * 4, *[keys] * R, *[values] * R]
    return [*(tensor for part in parts for tensor in part), *past]


def _dynamic_axes(num_frame_tensors: int, num_tensors: int) -> list[tuple[int, ...]]:
    """Dynamic axes of each input: the batch and the lengths of texts."""
    text = [(0,), (0, 3), (1, 3), (1, 3)]
    axes = [*[(0,)] * num_frame_tensors, *text, *[(0,)] * len(FrameControls._fields), *text]
    return axes + [(0,)] * (num_tensors - len(axes))
