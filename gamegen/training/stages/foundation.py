"""The `foundation` stage: text-to-video and continuation with a noise level per latent frame."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from gamegen.models.configs import named_config
from gamegen.models.model import ModelConfig
from gamegen.training.stages.world_model import LatentStage

STATISTICS_FILE = "statistics.json"


@dataclass(frozen=True, kw_only=True)
class FoundationStage(LatentStage):
    """Trains a foundation on the latents of an autoencoder; its checkpoint keeps their mean and deviation."""

    stage: Literal["foundation"] = "foundation"

    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        sizes = named_config(self.model)
        config, weights = self.load_init(init)
        if config.foundation is None:
            config = replace(config, foundation=sizes.foundation)
        config, weights = self.extended(config, weights)
        return with_statistics(config, data), weights


def with_statistics(config: ModelConfig, data: Path) -> ModelConfig:
    """The config with the mean and deviation of encoded shards; raises FileNotFoundError if they were not measured."""
    file = data / STATISTICS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: run the encode job first")
    statistics = json.loads(file.read_text())
    return replace(config, latent_mean=tuple(statistics["mean"]), latent_std=tuple(statistics["std"]))
