"""Optimisers of a stage: Muon for hidden matrices, AdamW for the rest, and the learning rate over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from gamegen.training.muon import Muon


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Settings of Muon and AdamW: linear warm-up, a constant rate, then a cosine over the last `decay_fraction`.

    `betas` are AdamW's; both take `weight_decay`. Gradients are clipped to norm `clip_norm`, and the rate ends at
    `final_rate` of `learning_rate`.
    """

    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_fraction: float = 0.4
    final_rate: float = 0.03
    clip_norm: float = 1.0


def build_optimisers(modules: dict[str, nn.Module], config: OptimiserConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer blocks, AdamW for everything else.

    AdamW decays no vectors (norms, biases, tables). Frozen weights belong to neither: they would decay.
    """
    hidden = [p for module in modules.values() for p in hidden_matrices(module) if p.requires_grad]
    taken = {id(p) for p in hidden}
    rest = [p for p in trained_parameters(modules) if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, foreach=True)
    if not hidden:
        return [adamw]
    return [Muon(hidden, config.learning_rate, weight_decay=config.weight_decay), adamw]


def trained_parameters(modules: dict[str, nn.Module]) -> list[nn.Parameter]:
    """The parameters of a stage's modules that are not frozen."""
    return [p for module in modules.values() for p in module.parameters() if p.requires_grad]


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights of the linear layers inside a transformer's `blocks`; none for a network without."""
    blocks = dict(module.named_children()).get("blocks", nn.Module())
    return [p for name, p in blocks.named_parameters() if p.ndim == 2 and name.endswith(".weight")]


def learning_rate(config: OptimiserConfig, step: int, progress: float) -> float:
    """The rate at a step; `progress` runs from 0 to 1."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    into_decay = max(0.0, progress - (1 - config.decay_fraction)) / max(config.decay_fraction, 1e-9)
    cosine = 0.5 * (1 + math.cos(math.pi * into_decay))
    return config.learning_rate * warm * (config.final_rate + (1 - config.final_rate) * cosine)
