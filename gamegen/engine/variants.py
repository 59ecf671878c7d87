"""Variants: a model with changes to how it is run, written in one line.

nano
nano:num_steps=4
nano:solver=euler,num_steps=50,first_steps=50,guidance_scale=2
runs/world:precision=int8,size=256x144
nano:decoder_reference=false                what the streaming decoder draws from latents alone
nano:view_memory=false                      a world that forgets what one turns away from
nano:exemplars=false                        a world that does not walk towards recorded pictures
gamegen-x:size=848x480,num_steps=4          a size of gamegen/configs/models with random weights
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import yaml

from gamegen.config import build, to_dict
from gamegen.device import default_device
from gamegen.engine.frame_pass import has_graph, run_on_noise
from gamegen.gallery.exemplars import exemplars_of
from gamegen.gallery.opening import find_gallery
from gamegen.media.size import Size, check_size
from gamegen.models.checkpoint import CheckpointError, load_checkpoint, read_config, resolve
from gamegen.models.configs import named_config
from gamegen.models.model import Model, ModelConfig
from gamegen.models.precision import PRECISIONS, Precision, convert, layers_to_quantise
from gamegen.models.sampling import SamplingConfig

_FLAGS = ("decoder_reference", "view_memory", "exemplars")
_OWN_KEYS = ("size", "sessions", "precision", "compiled", *_FLAGS)


@dataclass(frozen=True)
class Variant:
    """A model with changes to its sampling; `size` is (width, height) in pixels, None the model's own.

    `sessions` is the number of worlds that a benchmark plays together. `compiled` True runs the networks in ONNX
    Runtime on a CPU, and with `torch.compile` on other devices; None uses ONNX Runtime if a graph is kept (`gamegen
    compile`) and the precision allows it. Without `decoder_reference`, the streaming decoder is not shown the frame
    before; without `view_memory`, no earlier views are kept; without either that or `exemplars`, worlds do not walk
    towards the pictures of the gallery.
    """

    text: str
    model: str
    sampling: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    sessions: int = 1
    precision: Precision = "native"
    compiled: bool | None = None
    decoder_reference: bool = True
    view_memory: bool = True
    exemplars: bool = True

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Parses `MODEL[:KEY=VALUE,...]`; raises ValueError, which names the wrong key or value."""
        model, _, rest = text.partition(":")
        values: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise ValueError(f"{text!r}: cannot read {part!r}, write KEY=VALUE")
            values[name.strip()] = yaml.safe_load(value)
        own = {name: values.pop(name) for name in _OWN_KEYS if name in values}
        known = [*(f.name for f in dataclasses.fields(SamplingConfig)), *_OWN_KEYS]
        for name in values:
            if name not in known:
                raise ValueError(f"{text!r}: unknown key {name!r}; known keys: {', '.join(known)}")
        sessions, precision = own.get("sessions", 1), own.get("precision", "native")
        if not isinstance(sessions, int) or sessions < 1:
            raise ValueError(f"{text!r}: sessions = {sessions!r} must be a number of at least 1")
        if precision not in PRECISIONS:
            raise ValueError(f"{text!r}: precision = {precision!r} must be one of {', '.join(PRECISIONS)}")
        compiled = own.get("compiled")
        flags = {name: own.get(name, True) for name in _FLAGS}
        if compiled not in (None, True, False):
            raise ValueError(f"{text!r}: compiled = {compiled!r} must be true or false")
        for name, flag in flags.items():
            if flag not in (True, False):
                raise ValueError(f"{text!r}: {name} = {flag!r} must be true or false")
        size = Size.parse(str(own["size"])) if "size" in own else None
        if size:
            check_size(*size)
        return cls(text, model, values, size, sessions, precision, compiled, **flags)

    @property
    def resolved(self) -> str:
        """The text with its checkpoint's absolute path, for a process with another working directory."""
        return ":".join([str(resolve(self.model).resolve()), *self.text.split(":")[1:]])

    def config(self) -> ModelConfig:
        """The config with this variant's changes, without loading weights."""
        return self._changed(read_config(self.model))

    def _changed(self, config: ModelConfig) -> ModelConfig:
        sampling = build(SamplingConfig, to_dict(config.sampling) | self.sampling, self.text)
        width, height = self.size or (config.width, config.height)
        return replace(config, sampling=sampling, width=width, height=height)

    def load(self, device: torch.device | str | None = None) -> Model:
        """The model in its precision: a checkpoint's weights. Raises CheckpointError or ValueError."""
        checkpoint = load_checkpoint(self.model, device)
        checkpoint.model.config = self._changed(checkpoint.config)
        if self.exemplars and self.view_memory and checkpoint.model.motion is not None:
            gallery = find_gallery(checkpoint.model, self.model)
            checkpoint.model.exemplars = exemplars_of(gallery) if gallery else None
        return self._prepared(checkpoint.model)

    def _prepared(self, model: Model) -> Model:
        model.decoder_reference, model.recalls_views = self.decoder_reference, self.view_memory
        obstacle = obstacle_to_compiling(model, self.precision)
        if self.compiled and obstacle:
            raise ValueError(f"{self.text!r}: compiled models need {obstacle}")
        is_on_cpu = model.device.type == "cpu"
        play = _noise_pass(model) if self.precision in ("int8", "float8") else None
        uses_kept = self.compiled is None and is_on_cpu and not obstacle and _has_graph(model)
        model.may_compile = self.compiled if self.compiled or uses_kept else False
        if model.may_compile is False or not is_on_cpu:
            return convert(model, self.precision, play)
        # A graph computes in float32; its layers are quantised when it is loaded.
        if play:
            model.int8_layers = layers_to_quantise(model, self.precision, play)
        return model

    def load_or_draw(self) -> Model:
        """The model of `load`, or a size of `gamegen/configs/models` with random weights, for measuring speed.

        Raises ValueError or CheckpointError if there is neither.
        """
        try:
            resolve(self.model)
        except CheckpointError:
            config = self._changed(named_config(self.model))
            torch.manual_seed(0)
            with default_device():
                return self._prepared(Model(config).eval())
        return self.load()


def obstacle_to_compiling(model: Model, precision: Precision) -> str | None:
    """The missing requirement for compiling a model on this machine, or None if it can be compiled."""
    if model.foundation is None or model.instructnet is None:
        return "a foundation and an InstructNet"
    if model.foundation.config.sparse_attention:
        return "dense attention"
    if model.device.type == "cpu" and precision not in ("native", "float32", "int8"):
        return "float32 or int8 on a CPU"
    return None


def _has_graph(model: Model) -> bool:
    assert model.foundation is not None and model.instructnet is not None
    return has_graph(model.foundation, model.instructnet, (model.config.width, model.config.height))


def _noise_pass(model: Model) -> Callable[[], None] | None:
    if model.foundation is None or model.instructnet is None:
        return None
    foundation, instructnet = model.foundation, model.instructnet
    size = model.config.width, model.config.height
    return lambda: run_on_noise(foundation, instructnet, size)
