"""The `sparse` stage: from dense to sparse-linear attention, fine-tuned to the dense network's outputs.

White-box: besides the dense network's velocity, each attention's own dense output is a target, so every layer learns
what its linear branch has to add (Zhang et al. 2025, "SLA", section 4.3, fine-tunes on the data alone).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gamegen.flow import add_noise, expand_levels, sample_levels
from gamegen.models.model import Model, ModelConfig
from gamegen.models.msdit import SpatialSelfAttention
from gamegen.models.sparse_attention import SparseAttentionConfig, SparseLinearAttention
from gamegen.training.latent_windows import LatentBatch
from gamegen.training.objectives.flow_matching import FlowLossConfig, FlowObjective
from gamegen.training.objectives.objective import Metrics
from gamegen.training.stages.world_model import LatentStage


@dataclass(frozen=True, kw_only=True)
class SparseConfig:
    """Settings of sparse attention, and the weight of each layer's error beside that of the velocity."""

    attention: SparseAttentionConfig = field(default_factory=SparseAttentionConfig)
    layer_weight: float = 0.1


@dataclass(frozen=True, kw_only=True)
class SparseStage(LatentStage):
    """Gives a model sparse-linear attention and fits it to its dense self."""

    stage: Literal["sparse"] = "sparse"
    sparse: SparseConfig = field(default_factory=SparseConfig)

    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        config, weights = self.load_init(init)
        if config.foundation is None:
            raise ValueError("the sparse stage changes a foundation's attention: --init has no foundation")
        foundation = replace(config.foundation, sparse_attention=self.sparse.attention)
        return replace(config, foundation=foundation), weights

    def objective(self, model: Model) -> SparseObjective:
        return SparseObjective(model, self.flow, self.sparse)


class SparseObjective(FlowObjective):
    """Fits the model's sparse attention, and all else, to a frozen copy with dense attention."""

    def __init__(self, model: Model, flow: FlowLossConfig, config: SparseConfig) -> None:
        super().__init__(model, flow)
        self.sparse = config
        self.foundation.requires_grad_(True)
        self.teacher = nn.ModuleList([copy.deepcopy(self.foundation)])
        if self.instructnet is not None:
            self.teacher.append(copy.deepcopy(self.instructnet))
        self.teacher.requires_grad_(False)
        for module in self.teacher.modules():
            if isinstance(module, SpatialSelfAttention):
                module.sparse = None
        self._errors: list[Tensor] = []
        for module in self._student_modules():
            if isinstance(module, SparseLinearAttention):
                module.register_forward_hook(self._compare_with_dense)

    def trained_modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"foundation": self.foundation}
        return modules if self.instructnet is None else {"instructnet": self.instructnet} | modules

    def sharded_modules(self) -> list[nn.Module]:
        return [*super().sharded_modules(), *self.teacher]

    def _student_modules(self) -> Iterator[nn.Module]:
        for module in self.trained_modules().values():
            yield from module.modules()

    def _compare_with_dense(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Records an attention's distance from the dense one over the same queries, keys and values."""
        with torch.no_grad():
            q, k, v = inputs
            dense = F.scaled_dot_product_attention(q, k, v)
        self._errors.append((output - dense).square().mean() / dense.square().mean().clamp_min(1e-6))

    def loss(self, batch: LatentBatch, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        batch = batch.to(self.model.device)
        inputs = self.draw_inputs(batch, generator)
        x0 = batch.latents
        levels = sample_levels(x0.shape[:2], self.config.level_shift, generator, self.model.device)
        xt = add_noise(x0, self._noise_like(x0, generator), levels)
        with torch.no_grad():
            teacher = (self.teacher[0], self.teacher[1] if self.instructnet is not None else None)
            goal = self.velocity(*teacher, xt, levels, inputs).float()
        velocity = self.velocity(self.foundation, self.instructnet, xt, levels, inputs).float()
        x0_error = ((velocity - goal).square() * expand_levels(levels).square()).mean()
        layers = torch.stack(self._errors).mean() if self._errors else torch.zeros(())
        # Validation copies the objective, which it could not with tensors of a graph.
        self._errors.clear()
        return x0_error + self.sparse.layer_weight * layers, {
            "x0_error": x0_error.item(),
            "layer_error": layers.item(),
        }
