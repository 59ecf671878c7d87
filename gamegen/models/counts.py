"""Parameter counts and FLOPs of a model, from its config alone: nothing is allocated.

Parts are built on PyTorch's meta device, where a forward pass only follows shapes, and PyTorch's own counter adds
up matrix products, convolutions and attention (a multiplication and its addition are two operations). Norms,
activations and modulation are left out: they are well under a hundredth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gamegen.constants import FRAMES_PER_CHUNK, SPATIAL_FACTOR, TEMPORAL_FACTOR
from gamegen.controls import OPERATION_SIZE
from gamegen.models.attention import TemporalAttention, TextKVCache
from gamegen.models.instructnet import ControlInputs
from gamegen.models.kv_cache import KVCaches, RingCache
from gamegen.models.model import Model, ModelConfig
from gamegen.models.motion import NUM_OPERATIONS, MotionConfig, MotionNetwork
from gamegen.models.msdit import PATCH, ControlBranch
from gamegen.models.network_inputs import Previous, Text
from gamegen.models.text import MAX_TOKENS


@dataclass(frozen=True)
class Latents:
    """Shape of a latent video: `frames` latents of `rows` by `columns`, with a text of `text_tokens` tokens."""

    frames: int
    rows: int
    columns: int
    text_tokens: int = MAX_TOKENS

    @classmethod
    def of_clip(cls, config: ModelConfig, num_frames: int, text_tokens: int = MAX_TOKENS) -> Latents:
        """Latents of a clip of `num_frames` video frames at the config's default size."""
        _, rows, columns = config.latent_shape
        return cls(-(-num_frames // TEMPORAL_FACTOR), rows, columns, text_tokens)

    @property
    def tokens(self) -> int:
        """Number of tokens in the transformer."""
        return self.frames * (self.rows // PATCH) * (self.columns // PATCH)


@dataclass(frozen=True)
class PartFlops:
    """Floating-point operations of one pass, by part."""

    foundation: int
    instructnet: int

    @property
    def total(self) -> int:
        """Operations of both parts."""
        return self.foundation + self.instructnet


@dataclass(frozen=True)
class VAEFlops:
    """Floating-point operations of encoding, decoding and streaming decoding of the same latents."""

    encode: int
    decode: int
    stream: int


@lru_cache(maxsize=8)
def meta_model(config: ModelConfig) -> Model:
    """The model on the meta device: weights have shapes and no values."""
    with torch.device("meta"):
        return Model(config)


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Number of weights by part, without absent parts."""
    parts = meta_model(config).named_children()
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts}


@lru_cache(maxsize=256)
def forward_flops(config: ModelConfig, latents: Latents, batch: int = 1) -> PartFlops:
    """FLOPs of one forward pass over whole windows, as in training.

    Raises ValueError for a config without a foundation.
    """
    return _over_layers(config, lambda model: _part_flops(model, latents, batch, None))


@lru_cache(maxsize=64)
def chunk_pass_flops(config: ModelConfig, text_tokens: int = MAX_TOKENS) -> PartFlops:
    """FLOPs of one denoising pass over one latent frame with full KV caches, as in play.

    The prompt's keys and values are cached, and there is no instruction.
    """
    _, rows, columns = config.latent_shape
    latents = Latents(1, rows, columns, text_tokens)
    return _over_layers(config, lambda model: _part_flops(model, latents, 1, _full_caches(model, latents)))


def chunk_flops(config: ModelConfig, text_tokens: int = MAX_TOKENS) -> int:
    """FLOPs of one streamed chunk: motion compensation, denoising, the pass that commits it, the streaming decoder."""
    passes = config.sampling.passes(config.sampling.num_steps, config.sampling.num_steps) + 1
    _, rows, columns = config.latent_shape
    return (
        passes * chunk_pass_flops(config, text_tokens).total
        + vae_flops(config, Latents(1, rows, columns)).stream
        + compensation_flops(config)
    )


def compensation_flops(config: ModelConfig) -> int:
    """FLOPs of the motion-compensated latent of one chunk, 0 for a foundation that is given none."""
    if config.foundation is None or not config.foundation.motion_compensation:
        return 0
    assert config.motion is not None
    # The frame shown last is moved and encoded.
    vae = vae_flops(config, Latents(1, *config.latent_shape[1:]))
    return vae.encode + motion_flops(config.motion, config.height, config.width)


@lru_cache(maxsize=64)
def vae_flops(config: ModelConfig, latents: Latents, batch: int = 1) -> VAEFlops:
    """FLOPs of encoding and decoding the video of `latents`."""
    vae = meta_model(config).vae
    shape = (batch, latents.frames, config.vae.latent_channels, latents.rows, latents.columns)
    latent = torch.empty(shape, device="meta")
    size = (latents.rows * SPATIAL_FACTOR, latents.columns * SPATIAL_FACTOR)
    video = torch.empty(batch, latents.frames * TEMPORAL_FACTOR, 3, *size, device="meta")
    return VAEFlops(
        measured_flops(lambda: vae.encode(video)),
        measured_flops(lambda: vae.decode(latent)),
        measured_flops(lambda: vae.decode_streaming(latent)),
    )


@lru_cache(maxsize=64)
def motion_flops(config: MotionConfig, height: int, width: int) -> int:
    """FLOPs of predicting the motion of one chunk of frames of `height` by `width` pixels; warping is none of them."""
    with torch.device("meta"):
        network = MotionNetwork(config)
        frame = torch.empty(1, 3, height, width)
        operations = torch.empty(1, NUM_OPERATIONS, OPERATION_SIZE)
    return measured_flops(lambda: network(frame, frame, operations))


def measured_flops(compute: Callable[[], object]) -> int:
    """FLOPs that PyTorch's counter sees while `compute` runs, without gradients."""
    # Fused attention on a CPU is unknown to the counter; the plain form computes the same products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def _part_flops(model: Model, latents: Latents, batch: int, caches: list[RingCache] | None) -> PartFlops:
    assert model.foundation is not None
    foundation, instructnet = model.foundation, model.instructnet
    with torch.device("meta"):
        x = torch.empty(
            batch, latents.frames, foundation.config.latent_channels, latents.rows, latents.columns
        )
        level = torch.empty(batch, latents.frames)
        text = Text(
            torch.empty(batch, latents.text_tokens, foundation.config.text_width),
            torch.empty(batch, latents.text_tokens, dtype=torch.bool),
            torch.empty(batch, foundation.config.text_width),
        )
        controls = ControlInputs(
            torch.empty(batch, latents.frames, FRAMES_PER_CHUNK, OPERATION_SIZE),
            torch.empty(batch, latents.frames, dtype=torch.bool),
            replace(text, cache=TextKVCache()),
            torch.empty(batch, latents.frames),
        )
    previous = Previous(x, x, level, x[:, :, :1] if foundation.config.motion_compensation else None)

    def run() -> int:
        """Runs both parts once; returns what the InstructNet took of it."""
        control = None
        if instructnet is not None:
            control = _CountedBranch(lambda: instructnet.bind(controls))
        foundation(x, level, previous, text, model.video_format, control, caches)
        return control.flops if control else 0

    with torch.inference_mode(caches is not None):
        if caches is not None:
            # Shapes alone do not say that there is no instruction.
            controls.instruction.cache.get("is_empty", lambda: True)
            run()
        control_flops = []
        total = measured_flops(lambda: control_flops.append(run()))
        return PartFlops(total - control_flops[0], control_flops[0])


class _CountedBranch(ControlBranch):
    """A control branch whose FLOPs are counted apart, while a counter around it counts everything."""

    def __init__(self, bind: Callable[[], ControlBranch]) -> None:
        self.flops = 0
        self._branch: ControlBranch = self._counted(bind)

    def start(self, x_BTSD: Tensor, rows: int) -> None:
        self._counted(lambda: self._branch.start(x_BTSD, rows))

    def after_layer(self, layer: int, x_BTSD: Tensor, caches: Any) -> Tensor:
        return self._counted(lambda: self._branch.after_layer(layer, x_BTSD, caches))

    def _counted(self, compute: Callable[[], Any]) -> Any:
        results = []
        self.flops += measured_flops(lambda: results.append(compute()))
        return results[0]


def _full_caches(model: Model, latents: Latents) -> list[RingCache]:
    # A ring has a place for each frame from the start, so reading it costs the same full or not.
    attentions = [module for module in model.modules() if isinstance(module, TemporalAttention)]
    with torch.device("meta"):
        return KVCaches([module.new_cache(1, latents.tokens, torch.float32) for module in attentions]).rings


def _over_layers(config: ModelConfig, count: Callable[[Model], PartFlops]) -> PartFlops:
    """FLOPs of a deep model, extrapolated from two shallow ones: all layers of a parity are alike."""
    if config.foundation is None:
        raise ValueError(
            "this model config has no foundation: name its sizes, as gamegen/configs/models/nano.yaml does"
        )
    num_layers = config.foundation.num_layers
    if num_layers <= 4:
        return count(meta_model(config))
    few = 2 - num_layers % 2
    start, further = (
        count(meta_model(replace(config, foundation=replace(config.foundation, num_layers=n))))
        for n in (few, few + 2)
    )
    more = (num_layers - few) // 2
    return PartFlops(
        start.foundation + more * (further.foundation - start.foundation),
        start.instructnet + more * (further.instructnet - start.instructnet),
    )
