"""From dense to sparse-linear attention: the same network, fine-tuned to what its dense self computes.

White-box: besides the dense network's velocity, each attention's own dense output is a target, so every layer learns
what its linear branch has to add (Zhang et al. 2025, "SLA", section 4.3, fine-tunes on the data alone).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gamegen.flow import add_noise, expand_levels, sample_levels
from gamegen.models.checkpoint import Model
from gamegen.models.msdit import SpatialSelfAttention
from gamegen.models.sparse_attention import SparseLinearAttention
from gamegen.training.config import FlowLossConfig, SparseConfig
from gamegen.training.latents import LatentBatch
from gamegen.training.objectives import FlowObjective, Metrics


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

    def _student_modules(self):
        for module in self.trained_modules().values():
            yield from module.modules()

    def _compare_with_dense(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Notes how far an attention is from the dense one over the same queries, keys and values."""
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
        self._errors.clear()
        velocity = self.velocity(self.foundation, self.instructnet, xt, levels, inputs).float()
        x0_error = ((velocity - goal).square() * expand_levels(levels).square()).mean()
        layers = torch.stack(self._errors).mean() if self._errors else torch.zeros(())
        return x0_error + self.sparse.layer_weight * layers, {
            "x0_error": x0_error.item(),
            "layer_error": layers.item(),
        }
