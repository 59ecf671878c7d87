"""The `penalty` stage: an example that continues a model with a penalty on its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gamegen.models.model import Model, ModelConfig
from gamegen.training.latent_windows import LatentBatch
from gamegen.training.objectives.flow_matching import FlowLossConfig, FlowObjective
from gamegen.training.objectives.objective import Metrics
from gamegen.training.stages.world_model import LatentStage


@dataclass(frozen=True, kw_only=True)
class PenaltyStage(LatentStage):
    stage: Literal["penalty"] = "penalty"
    penalty_weight: float = 0.1

    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        return self.load_init(init)

    def objective(self, model: Model) -> PenaltyObjective:
        return PenaltyObjective(model, self.flow, self.penalty_weight)


class PenaltyObjective(FlowObjective):
    def __init__(self, model: Model, flow: FlowLossConfig, penalty_weight: float) -> None:
        super().__init__(model, flow)
        self.penalty_weight = penalty_weight

    def loss(self, batch: LatentBatch, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        loss, metrics = super().loss(batch, generator, progress)
        weights = [p for module in self.trained_modules().values() for p in module.parameters()]
        penalty = torch.stack([p.square().mean() for p in weights]).mean()
        return loss + self.penalty_weight * penalty, {**metrics, "penalty": penalty.item()}
