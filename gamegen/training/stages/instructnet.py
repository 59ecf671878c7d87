"""The `instructnet` stage: keys, instructions and video prompts on top of a foundation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from gamegen.models.configs import named_config
from gamegen.models.model import ModelConfig
from gamegen.training.stages.world_model import LatentStage


@dataclass(frozen=True, kw_only=True)
class InstructNetStage(LatentStage):
    """Trains InstructNet; the foundation is frozen, or learns along with `flow.train_foundation`."""

    stage: Literal["instructnet"] = "instructnet"

    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        sizes = named_config(self.model)
        config, weights = self.load_init(init)
        if config.foundation is None:
            config = replace(config, foundation=sizes.foundation)
        if config.instructnet is None:
            config = replace(config, instructnet=sizes.instructnet)
        return self.extended(config, weights)
