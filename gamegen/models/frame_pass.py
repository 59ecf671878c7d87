"""One pass over one new latent frame of every session, as a function of tensors alone.

The networks keep what they know of texts and of the past in objects; here all of that comes in and what is new goes
out as tensors, so that the whole pass can be compiled (`gamegen.models.onnx`). It calls the same networks, and the
result is theirs.

Shape suffixes as in `msdit.py`, and N layers with a text, R ring caches, K heads, W cached frames, E head width.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from gamegen.controls import FRAMES_PER_CHUNK, OPERATION_SIZE
from gamegen.models.attention import CrossAttention, Memory, Rotation, TemporalAttention
from gamegen.models.instructnet import Controls, InstructNet
from gamegen.models.msdit import PATCH, MSDiT, Previous, Text, VideoFormat
from gamegen.models.onnx import compiled, is_kept
from gamegen.models.ring_cache import Caches, Past, Reach
from gamegen.models.vae import SPATIAL_FACTOR

logger = logging.getLogger(__name__)


class ReadText(NamedTuple):
    """What attention reads of a batch of texts: `keys` and `values` `(N, B, K, L, E)`, `mask` `(B, 1, 1, L)`,
    `pooled` `(B, D)`."""

    pooled: Tensor
    mask: Tensor
    keys: Tensor
    values: Tensor

    @classmethod
    def read(cls, text: Text, text_in: nn.Module, layers: list[CrossAttention]) -> ReadText:
        """Reads a text with every layer that hears it."""
        tokens = text_in(text.tokens.to(layers[0].query.weight.dtype))
        keys, values, masks = zip(*(layer.read(tokens, text.mask) for layer in layers), strict=True)
        return cls(text.pooled, masks[0], torch.stack(keys), torch.stack(values))

    def known_to(self, layers: list[CrossAttention], *embedders: nn.Module) -> Text:
        """The text as those layers take it."""
        known: dict[Any, Any] = {
            layer: (self.keys[i], self.values[i], self.mask) for i, layer in enumerate(layers)
        }
        return Text(
            self.pooled, self.mask, self.pooled, _Known(known | dict.fromkeys(embedders, self.pooled))
        )


def temporal_attentions(foundation: MSDiT, instructnet: InstructNet) -> list[TemporalAttention]:
    """Temporal attentions of both networks in the order a pass meets them."""
    found: list[Any] = []
    for i, block in enumerate(foundation.blocks):
        if block.temporal:
            control = instructnet.blocks[i // 2]
            found += [block.attention, *([control.attention] if control.temporal else [])]
    return found


class Frame(NamedTuple):
    """The noisy latent frame, its level, and the latent before it: see `MSDiT.forward` and `Previous`."""

    x_BTCHW: Tensor
    level_BT: Tensor
    previous: Tensor
    noisy_previous: Tensor
    previous_level_BT: Tensor


class Keys(NamedTuple):
    """Operations `(B, 1, 4, O)`, whether there are any and whether an instruction is in force: see `Controls`."""

    operations: Tensor
    has_operations: Tensor
    instruction_active: Tensor


class _Known(Memory):
    """Gives what was read before instead of computing it."""

    def __init__(self, known: dict[Any, Any]) -> None:
        self._known = known

    @property
    def is_kept(self) -> bool:
        return True

    def get(self, owner: Any, compute: Callable[[], Any]) -> Any:
        if owner == "silent":
            return False
        return self._known[owner]


class _KnownRing:
    """A ring cache whose frames are given; keeps the new one's rotated keys, and values, `(B, S, K, 1, E)`."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self.new: tuple[Tensor, Tensor] | None = None

    def past(self) -> Past:
        return self._past

    def offer(self, k: Tensor, v: Tensor) -> None:
        self.new = k, v


@dataclass
class _KnownCaches:
    """Stands for `Caches` in a pass whose cached frames are given: `reach`, then keys, then values of every ring."""

    rings: list[_KnownRing]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> _KnownCaches:
        (mask, cos, sin, far_cos, far_sin), rest = tensors[:5], tensors[5:]
        reach = Reach(mask, Rotation(cos, sin), Rotation(far_cos, far_sin))
        half = len(rest) // 2
        pairs = zip(rest[:half], rest[half:], strict=True)
        return cls([_KnownRing(Past(keys, values, reach)) for keys, values in pairs])


def _past_tensors(caches: Caches) -> list[Tensor]:
    """What `_KnownCaches.of` is made from."""
    pasts = [ring.past() for ring in caches.rings]
    reach = pasts[0].reach
    shared = [reach.mask, reach.rotation.cos, reach.rotation.sin, reach.far.cos, reach.far.sin]
    return [*shared, *(past.keys for past in pasts), *(past.values for past in pasts)]


class FramePass(nn.Module):
    """The networks' pass with everything given: `(frame, prompt, keys, instruction, past)`, flattened.

    Returns the velocity `(B, 1, C, H, W)` and the new frame's rotated keys, and values, `(R, B, S, K, E)`.
    """

    def __init__(self, foundation: MSDiT, instructnet: InstructNet, video_format: VideoFormat) -> None:
        super().__init__()
        self.foundation, self.instructnet = foundation, instructnet
        self.video_format = video_format

    @property
    def prompt_layers(self) -> list[CrossAttention]:
        """Layers that hear the prompt."""
        return [cast(CrossAttention, block.cross) for block in self.foundation.blocks]

    @property
    def instruction_layers(self) -> list[CrossAttention]:
        """Layers that hear the instruction."""
        return [cast(CrossAttention, block.instruction) for block in self.instructnet.blocks]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (frame, prompt, keys, said), past = _unflatten(tensors)
        caches = _KnownCaches.of(past)
        instruction = said.known_to(self.instruction_layers, self.instructnet)
        controls = Controls(keys.operations, keys.has_operations, instruction, keys.instruction_active)
        velocity = self.foundation(
            frame.x_BTCHW,
            frame.level_BT,
            Previous(frame.previous, frame.noisy_previous, frame.previous_level_BT),
            prompt.known_to(self.prompt_layers, self.foundation),
            self.video_format,
            self.instructnet.bind(controls),
            caches,  # type: ignore[arg-type]
        )
        new = [ring.new for ring in caches.rings if ring.new is not None]
        return velocity, *(torch.stack([pair[i].squeeze(3) for pair in new]) for i in (0, 1))  # type: ignore[return-value]


_PARTS: tuple[Any, ...] = (Frame, ReadText, Keys, ReadText)


def _unflatten(tensors: tuple[Tensor, ...]) -> tuple[list[Any], list[Tensor]]:
    """The parts of a pass, in their order, and the tensors of its past."""
    rest = iter(tensors)
    parts = [part(*itertools.islice(rest, len(part._fields))) for part in _PARTS]
    return parts, list(rest)


@dataclass(frozen=True)
class FrameInputs:
    """What a frame is drawn from, the same for all of its denoising steps."""

    prompt: Text
    controls: Controls
    previous: Previous


class DirectFramePass:
    """The networks themselves, for pictures of `size` (width and height in pixels)."""

    def __init__(self, foundation: MSDiT, instructnet: InstructNet, size: tuple[int, int]) -> None:
        self._foundation, self._instructnet = foundation, instructnet
        self._video_format = VideoFormat(aspect_ratio=size[0] / size[1])

    def __call__(self, x_BTCHW: Tensor, level_BT: Tensor, inputs: FrameInputs, caches: Caches) -> Tensor:
        """The velocity; the ring caches are left to commit the new frame."""
        control = self._instructnet.bind(inputs.controls)
        return self._foundation(
            x_BTCHW, level_BT, inputs.previous, inputs.prompt, self._video_format, control, caches
        )


class CompiledFramePass:
    """A `FramePass` compiled for pictures of one size: called as `DirectFramePass` is, with the same results but for
    rounding."""

    def __init__(self, frame_pass: FramePass, module: Callable[..., Sequence[Tensor]]) -> None:
        self._pass, self._compiled = frame_pass, module

    @classmethod
    def by_torch(cls, frame_pass: FramePass, backend: str = "inductor") -> CompiledFramePass:
        """By `torch.compile`: one graph for a lone session and one for any number of them, with texts of any length."""
        return cls(frame_pass, torch.compile(frame_pass, fullgraph=True, dynamic=True, backend=backend))

    def __call__(self, x_BTCHW: Tensor, level_BT: Tensor, inputs: FrameInputs, caches: Caches) -> Tensor:
        """The velocity; the ring caches are left to commit the new frame."""
        networks, previous, controls = self._pass, inputs.previous, inputs.controls
        parts = (
            Frame(x_BTCHW, level_BT, previous.latent, previous.noisy, previous.level),
            self._read(inputs.prompt, networks.foundation.text_in, networks.prompt_layers),
            Keys(controls.operations, controls.has_operations, controls.instruction_active),
            self._read(controls.instruction, networks.instructnet.text_in, networks.instruction_layers),
        )
        tensors = [*(tensor for part in parts for tensor in part), *_past_tensors(caches)]
        velocity, keys, values = self._compiled(*tensors)
        for ring, k, v in zip(caches.rings, keys, values, strict=True):
            ring.offer(k[..., None, :], v[..., None, :])
        return velocity

    def _read(self, text: Text, text_in: nn.Module, layers: list[CrossAttention]) -> ReadText:
        return text.memory.get(self, lambda: ReadText.read(text, text_in, layers))


def build_frame_pass(
    foundation: MSDiT,
    instructnet: InstructNet,
    size: tuple[int, int],
    may_compile: bool | None,
    int8_layers: Sequence[str] = (),
) -> CompiledFramePass | DirectFramePass:
    """The quickest pass there is for pictures of `size` (width and height in pixels).

    On a CPU `may_compile` None takes a kept graph and exports none; see `gamegen.models.onnx`. `int8_layers` of
    those are quantised.
    On other devices `torch.compile` is for them who ask for it: its first chunks take a minute.
    """
    if may_compile and foundation.device.type != "cpu":
        return CompiledFramePass.by_torch(_frame_pass(foundation, instructnet, size))
    if may_compile is not False:
        frame_pass = _frame_pass(foundation, instructnet, size)
        example = _example(frame_pass, size)
        module = compiled("pass", frame_pass, example, _dynamic_axes(len(example)), bool(may_compile))
        if module is not None:
            return CompiledFramePass(
                frame_pass, module.in_int8(frame_pass, int8_layers) if int8_layers else module
            )
        if int8_layers:
            logger.warning("no graph for %dx%d is kept: drawn in float32, not int8 (gamegen compile)", *size)
    return DirectFramePass(foundation, instructnet, size)


def is_graph_kept(foundation: MSDiT, instructnet: InstructNet, size: tuple[int, int]) -> bool:
    """Whether there is a graph for pictures of `size` (width and height in pixels)."""
    frame_pass = _frame_pass(foundation, instructnet, size)
    return is_kept("pass", frame_pass, _example(frame_pass, size))


def rehearse(foundation: MSDiT, instructnet: InstructNet, size: tuple[int, int]) -> None:
    """One pass over noise under words of noise: every layer gets inputs of about the size that it meets in play."""
    frame_pass = _frame_pass(foundation, instructnet, size)
    random = torch.Generator().manual_seed(0)

    def noise(x: Tensor) -> Tensor:
        if x.dtype == torch.bool:
            return x
        # Levels, one a frame, are between 0 and 1.
        drawn = torch.rand if x.shape[1:] == (1,) else torch.randn
        return drawn(x.shape, generator=random)

    frame_pass(*(noise(x).to(foundation.device) for x in _example(frame_pass, size)))


def _frame_pass(foundation: MSDiT, instructnet: InstructNet, size: tuple[int, int]) -> FramePass:
    return FramePass(foundation, instructnet, VideoFormat(aspect_ratio=size[0] / size[1])).eval()


def _example(frame_pass: FramePass, size: tuple[int, int]) -> list[Tensor]:
    """Inputs of the right sizes; two sessions, and texts of two lengths, since those may change."""
    config, B = frame_pass.foundation.config, 2
    width, height = (length // SPATIAL_FACTOR for length in size)
    K, E, S = config.num_heads, config.width // config.num_heads, height * width // PATCH**2
    W, R = (
        config.window - 1 + config.anchors,
        len(temporal_attentions(frame_pass.foundation, frame_pass.instructnet)),
    )

    def text(length: int, layers: list[CrossAttention]) -> ReadText:
        keys = torch.zeros(len(layers), B, K, length, E)
        return ReadText(
            torch.zeros(B, config.text_width), torch.ones(B, 1, 1, length, dtype=torch.bool), keys, keys
        )

    latent, level = torch.zeros(B, 1, config.latent_channels, height, width), torch.zeros(B, 1)
    rotation = torch.zeros(B, 1, 1, 1, E // 2)
    keys, values = torch.zeros(B, S, K, E, W), torch.zeros(B, S, K, W, E)
    operations = torch.zeros(B, 1, FRAMES_PER_CHUNK, OPERATION_SIZE)
    parts = (
        Frame(latent, level, latent, latent, level),
        text(5, frame_pass.prompt_layers),
        Keys(operations, torch.ones(B, 1, dtype=torch.bool), level),
        text(3, frame_pass.instruction_layers),
    )
    past = [torch.ones(B, 1, 1, 1, W, dtype=torch.bool), *[rotation] * 4, *[keys] * R, *[values] * R]
    return [*(tensor for part in parts for tensor in part), *past]


def _dynamic_axes(num_tensors: int) -> list[tuple[int, ...]]:
    """The axes of the batch and of texts' lengths."""
    text = [(0,), (0, 3), (1, 3), (1, 3)]
    axes = [*[(0,)] * len(Frame._fields), *text, *[(0,)] * len(Keys._fields), *text]
    return axes + [(0,)] * (num_tensors - len(axes))
