"""Precision of a model's computations: float32, bfloat16, int8 or float8.

Only the linear layers inside transformer blocks are quantised: they do nearly all the work. Conditioning layers (AdaLN,
FiLM, embeddings of levels and text), the first and the last layer, depthwise convolutions and the autoencoder stay
unquantised, and so does every layer whose error in `layer_errors` is too large: see `convert`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gamegen.device import compute_dtype
from gamegen.models.model import Model

Precision = Literal["native", "float32", "bfloat16", "int8", "float8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
QUANTISED = re.compile(
    r"blocks\.\d+\.(attention\.(qkv|out)|cross\.(query|out)|instruction\.(query|out)|mlp\.(up|down)|out)"
)
"""Names of the layers that are quantised: those over a frame's tokens, not those over its text or condition."""
MIN_SQNR_DB = 20.0
"""Lowest signal-to-quantisation-noise ratio; layers below it stay unquantised."""


@dataclass(frozen=True)
class LayerError:
    """Quantisation error of a layer: the signal-to-quantisation-noise ratio of its output in decibels."""

    name: str
    sqnr_db: float

    @property
    def is_kept(self) -> bool:
        """Whether the layer stays unquantised."""
        return self.sqnr_db < MIN_SQNR_DB


def convert(model: Model, precision: Precision, play: Callable[[], None] | None = None) -> Model:
    """Converts a model's networks to a precision in place, and returns the model.

    `native` is the fastest unquantised dtype of the device (`gamegen.device.compute_dtype`). int8 and float8 scale
    activations dynamically, so they need no calibration. `play`, if given, runs the model, and layers whose error is
    too large meanwhile stay unquantised. Raises ValueError if the device, or a missing package, does not allow a
    precision.
    """
    parts = _parts(model)
    if precision in ("int8", "float8"):
        changed = layers_to_quantise(model, precision, play)
        for part_name, part in parts:
            names = [name for name, _ in quantised_layers(part) if f"{part_name}.{name}" in changed]
            _quantise(part, names, precision, model.device)
        return model
    dtype = compute_dtype(model.device) if precision == "native" else getattr(torch, precision)
    for _, part in parts:
        part.to(dtype)
    return model


def layers_to_quantise(
    model: Model, precision: Precision, play: Callable[[], None] | None = None
) -> tuple[str, ...]:
    """Names of the layers to quantise: all candidates except those whose error during `play` is too large."""
    if play:
        return tuple(error.name for error in layer_errors(model, precision, play) if not error.is_kept)
    return tuple(f"{name}.{layer}" for name, part in _parts(model) for layer, _ in quantised_layers(part))


def quantised_layers(part: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Names and layers of a network that quantisation may change."""
    for name, module in part.named_modules():
        if isinstance(module, nn.Linear) and QUANTISED.fullmatch(name):
            yield name, module


@torch.inference_mode()
def layer_errors(model: Model, precision: Precision, play: Callable[[], None]) -> list[LayerError]:
    """Quantisation error of each candidate layer, over its inputs while `play` runs the model."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    handles = []
    for part_name, part in _parts(model):
        for name, layer in quantised_layers(part):
            key, alone = f"{part_name}.{name}", nn.Sequential(nn.Linear(1, 1))
            alone[0] = _copy(layer)
            _quantise(alone, ["0"], precision, model.device)

            def compare(
                _layer: nn.Module,
                inputs: tuple[Tensor, ...],
                output: Tensor,
                key: str = key,
                alone: nn.Module = alone,
            ) -> None:
                error = (alone(inputs[0]) - output).float()
                signal[key] = signal.get(key, 0.0) + output.float().square().sum().item()
                noise[key] = noise.get(key, 0.0) + error.square().sum().item()

            handles.append(layer.register_forward_hook(compare))
    try:
        play()
    finally:
        for handle in handles:
            handle.remove()
    ratios = {key: torch.tensor(signal[key] / max(noise[key], 1e-20)) for key in signal}
    return [LayerError(key, 10 * ratio.log10().item()) for key, ratio in ratios.items()]


def _copy(layer: nn.Linear) -> nn.Linear:
    copy = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    copy.load_state_dict(layer.state_dict())
    return copy.to(layer.weight.device, layer.weight.dtype).eval()


def _parts(model: Model) -> list[tuple[str, nn.Module]]:
    named = (("foundation", model.foundation), ("instructnet", model.instructnet))
    return [(name, part) for name, part in named if part is not None]


def _quantise(part: nn.Module, names: list[str], precision: Precision, device: torch.device) -> None:
    if device.type == "cpu":
        if precision != "int8":
            raise ValueError(f"precision {precision} on a CPU: use int8, float32 or bfloat16")
        _quantise_on_cpu(part, names)
    else:
        _quantise_with_torchao(part, set(names), precision, device)


def _quantise_on_cpu(part: nn.Module, names: list[str]) -> None:
    """Dynamic int8 with a scale for each output channel."""
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    with warnings.catch_warnings():
        # Deprecated in favour of torchao, which has no fast int8 for CPUs yet.
        warnings.simplefilter("ignore")
        quantize_dynamic(part, dict.fromkeys(names, per_channel_dynamic_qconfig), inplace=True)


def _quantise_with_torchao(
    part: nn.Module, names: set[str], precision: Precision, device: torch.device
) -> None:
    try:
        from torchao import quantization
    except ImportError as error:
        raise ValueError(
            f"precision {precision} on {device.type} needs torchao: pip install torchao"
        ) from error
    config = (
        quantization.Int8DynamicActivationInt8WeightConfig()
        if precision == "int8"
        else quantization.Float8DynamicActivationFloat8WeightConfig()
    )
    part.to(torch.bfloat16)
    quantization.quantize_(part, config, filter_fn=lambda module, name: name in names)
