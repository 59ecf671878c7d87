"""A model and how it is run, written in one line, wherever a model is named.

nano
nano:num_steps=4
nano:solver=euler,num_steps=50,first_steps=50,guidance_scale=2
runs/world:precision=int8,size=256x144
gamegen-x:size=848x480,num_steps=4          a size of configs/models with random weights
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import yaml

from gamegen.config import build, to_dict
from gamegen.device import default_device
from gamegen.models.checkpoint import (
    CheckpointError,
    Model,
    ModelConfig,
    SamplingConfig,
    load_checkpoint,
    read_config,
    resolve,
)
from gamegen.models.configs import named_config
from gamegen.models.precision import PRECISIONS, Precision, convert
from gamegen.video import check_size, parse_size

_OWN_KEYS = ("size", "sessions", "precision")


@dataclass(frozen=True)
class Variant:
    """A model with changes to its sampling; `size` is (width, height) in pixels, None the model's own.

    `sessions` is how many worlds a benchmark draws together.
    """

    text: str
    model: str
    sampling: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    sessions: int = 1
    precision: Precision = "native"

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Reads `MODEL[:KEY=VALUE,...]`; raises ValueError naming what does not fit."""
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
        size = parse_size(str(own["size"])) if "size" in own else None
        if size:
            check_size(*size)
        return cls(text, model, values, size, sessions, precision)

    @property
    def resolved(self) -> str:
        """The same with its checkpoint's absolute path, for a process with another working directory."""
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
        return convert(checkpoint.model, self.precision)

    def load_or_draw(self) -> Model:
        """As `load`, or a size of `configs/models` with random weights: as fast, and its pictures are noise.

        Raises ValueError or CheckpointError if there is neither.
        """
        try:
            resolve(self.model)
        except CheckpointError:
            config = self._changed(named_config(self.model))
            torch.manual_seed(0)
            with default_device():
                return convert(Model(config).eval(), self.precision)
        return self.load()
