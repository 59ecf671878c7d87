"""What a benchmark measures: a model and how it is run, written in one line.

nano
nano:num_steps=4
nano:solver=euler,num_steps=50,first_steps=50,guidance_scale=2
gamegen-x:size=848x480,num_steps=4          a size of configs/models with random weights
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import yaml

from gamegen.config import build, to_dict
from gamegen.models.checkpoint import CheckpointError, Model, ModelConfig, SamplingConfig, load_checkpoint
from gamegen.models.configs import named_config
from gamegen.turbo.precision import PRECISIONS, Precision, convert
from gamegen.video import check_size, parse_size

_OWN_KEYS = ("size", "sessions", "precision")


@dataclass(frozen=True)
class Variant:
    """A model with changes to its sampling; `size` is (width, height) in pixels, None the model's own.

    `sessions` worlds are drawn together, one row each of the same batch.
    """

    text: str
    model: str
    sampling: dict[str, Any]
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

    def load(self) -> Model:
        """The model on this machine's device: a checkpoint's, or of random weights in a size of `configs/models`.

        Raises ValueError or CheckpointError if there is neither.
        """
        try:
            checkpoint = load_checkpoint(self.model)
            model, config = checkpoint.model, checkpoint.config
        except CheckpointError as missing:
            if "no checkpoint at" not in str(missing):
                raise
            config = named_config(self.model)
            model = random_model(config)
        settings = to_dict(config.sampling) | self.sampling
        sampling = build(SamplingConfig, settings, self.text)
        width, height = self.size or (config.width, config.height)
        model.config = replace(config, sampling=sampling, width=width, height=height)
        return convert(model, self.precision)


def random_model(config: ModelConfig) -> Model:
    """A model whose weights are random: as fast as a trained one, and its pictures are noise."""
    import torch

    from gamegen.device import compute_dtype, default_device

    device = default_device()
    torch.manual_seed(0)
    with device:
        model = Model(config)
    # On a GPU large models are held as they are computed with.
    return model.to(compute_dtype(device) if device.type != "cpu" else torch.float32).eval()
