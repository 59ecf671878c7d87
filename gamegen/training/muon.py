"""Muon: momentum whose update is made orthogonal, for the hidden matrices of a transformer.

`torch.optim.Muon` computes in bfloat16 only, which a CPU without bfloat16 instructions emulates forty times
slower, and takes one matrix at a time; this one works in the dtype that suits the device, on all matrices of a shape
at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from gamegen.device import compute_dtype

# Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised by Newton-Schulz iterations, with decoupled weight decay.

    The update is scaled to the size of AdamW's (Liu et al. 2025, "Muon is Scalable for LLM Training", §2.2), so
    both take the same `lr`.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _update(
        self, parameters: list[nn.Parameter], lr: float, momentum: float, weight_decay: float
    ) -> None:
        weights: list[Tensor] = [*parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        averages = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, averages, momentum)
        updates = orthogonalise(torch.stack([whole_matrix(matrix) for matrix in ahead]))
        size = 0.2 * max(updates.shape[-2:]) ** 0.5
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        shares = [share_like(weight, update) for weight, update in zip(weights, updates, strict=True)]
        torch._foreach_add_(weights, shares, alpha=-lr * size)


def whole_matrix(matrix: Tensor) -> Tensor:
    """A matrix with all its shards: to orthogonalise one takes all of it."""
    return matrix.full_tensor() if isinstance(matrix, DTensor) else matrix


def share_like(weight: Tensor, update: Tensor) -> Tensor:
    """The part of a whole update that this process's shard of a weight takes."""
    if not isinstance(weight, DTensor):
        return update
    mesh = weight.device_mesh
    everywhere = DTensor.from_local(update, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=weight.placements)


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix of each, roughly: singular values come out between about .7 and 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrices_NRC.shape[-2] > matrices_NRC.shape[-1]
    x = matrices_NRC.mT if tall else matrices_NRC
    x = x.to(compute_dtype(x.device))
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices_NRC.dtype)
