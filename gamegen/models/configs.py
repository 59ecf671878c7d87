"""Named model sizes: each file of `configs/models/` is a complete `ModelConfig`."""

from __future__ import annotations

from pathlib import Path

from gamegen.config import load_yaml, named_file
from gamegen.models.model import ModelConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "models"


def model_names() -> list[str]:
    """The named configs, smallest foundation first; raises ValueError if there are none."""
    names = [file.stem for file in CONFIGS.glob("*.yaml")]
    if not names:
        raise ValueError(f"{CONFIGS} has no model configs: install GameGen again")
    return sorted(names, key=lambda name: _size(named_config(name)))


def named_config(name: str) -> ModelConfig:
    """The config of a name or a YAML file; raises ValueError for an unknown name or a wrong file."""
    file = named_file(name, CONFIGS, "model config")
    config = load_yaml(ModelConfig, file)
    for part in ("foundation", "instructnet"):
        if getattr(config, part) is None:
            raise ValueError(f"{file}: missing key {part!r}: a model config gives the sizes of every part")
    return config


def _size(config: ModelConfig) -> int:
    return config.foundation.width**2 * config.foundation.num_layers if config.foundation else 0
