"""Named model sizes: each file of `gamegen/configs/models/` is a complete `ModelConfig`."""

from __future__ import annotations

from gamegen.config import config_file, config_names, load_yaml
from gamegen.models.model import ModelConfig


def model_names() -> list[str]:
    """The named configs, smallest foundation first; raises ValueError if there are none."""
    return sorted(config_names("models"), key=lambda name: _size(named_config(name)))


def named_config(name: str) -> ModelConfig:
    """The config of a name or a YAML file; raises ValueError for an unknown name or a wrong file."""
    file = config_file("models", name)
    config = load_yaml(ModelConfig, file)
    for part in ("foundation", "instructnet"):
        if getattr(config, part) is None:
            raise ValueError(f"{file}: missing key {part!r}: a model config gives the sizes of every part")
    return config


def _size(config: ModelConfig) -> int:
    return config.foundation.width**2 * config.foundation.num_layers if config.foundation else 0
