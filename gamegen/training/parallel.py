"""How processes share a model and a step: replicas, sharded states (ZeRO), recomputed activations, compiled blocks.

Replicas sum their gradients once a step. `zero2` shards gradients, averaged weights and optimiser states, `zero3`
weights too, block by block (FSDP2; Rajbhandari et al. 2020, "ZeRO"). Every process runs the same code: a sharded
parameter is a DTensor that knows its shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.nn.functional import all_gather
from torch.distributed.tensor import DTensor

from gamegen.models.attention import TemporalAttention

Strategy = Literal["ddp", "zero2", "zero3"]


@dataclass(frozen=True)
class ParallelConfig:
    """`checkpoint_activations` computes each transformer block twice and keeps only its input in memory;
    `compile_blocks` compiles each block (`torch.compile`), which pays where thousands of steps follow.
    `sequence` processes share each window, a stretch of its time each: for windows that one device cannot hold."""

    strategy: Strategy = "ddp"
    sequence: int = 1
    checkpoint_activations: bool = False
    compile_blocks: bool = False


def rank() -> int:
    """This process's number; 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_workers() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def data_worker(config: ParallelConfig) -> tuple[int, int]:
    """(number, count) of this process among those that read different windows.

    Raises ValueError if the processes do not split into groups of `config.sequence`.
    """
    if num_workers() % config.sequence:
        raise ValueError(
            f"{num_workers()} workers do not split into groups of {config.sequence} that share a window: train with a "
            "multiple, or set parallel.sequence in the stage's file"
        )
    return rank() // config.sequence, num_workers() // config.sequence


def is_sharded(config: ParallelConfig) -> bool:
    """Whether parameters become shards: one process has nobody to share with."""
    return config.strategy != "ddp" and num_workers() > 1


def prepare(modules: Iterable[nn.Module], config: ParallelConfig, device: torch.device) -> None:
    """Wraps the blocks of transformers and shards all `modules`, in place; their parameter names stay."""
    for module in modules:
        blocks = blocks_of(module)
        if config.checkpoint_activations and blocks:
            apply_activation_checkpointing(module, check_fn=lambda part, kept=blocks: part in kept)  # type: ignore[misc]
            blocks = blocks_of(module)
        if config.compile_blocks:
            for block in blocks:
                block.compile()
        if is_sharded(config):
            mesh = init_device_mesh(device.type, (num_workers(),))
            for part in (*blocks, module):
                fully_shard(part, mesh=mesh, reshard_after_forward=config.strategy == "zero3")
                # Losses are shares of the whole batch's, so shares of gradients are summed.
                part.set_gradient_divide_factor(1.0)  # type: ignore[operator]
                part.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]


def sequence_group(config: ParallelConfig) -> dist.ProcessGroup | None:
    """The processes that share windows with this one; None if it has its windows for itself."""
    if config.sequence == 1:
        return None
    groups = [
        dist.new_group(list(range(start, start + config.sequence)))
        for start in range(0, num_workers(), config.sequence)
    ]
    return groups[rank() // config.sequence]


class SharedTime:
    """Runs a transformer on this process's stretch of time and puts the stretches together again."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def divides(self, num_latents: int) -> bool:
        """Whether windows of this length can be shared; others every process computes whole."""
        return num_latents % self.size == 0

    def stretch(self, x_BT: Tensor) -> Tensor:
        """This process's part of a tensor `(B, T, ...)`."""
        return x_BT.chunk(self.size, 1)[self.rank]

    def together(self, x_BT: Tensor) -> Tensor:
        """The stretches of all processes as one. Its gradient is summed over them."""
        return torch.cat(all_gather(x_BT.contiguous(), self.group), 1)

    @contextmanager
    def joined(self, *modules: nn.Module) -> Iterator[None]:
        """While open, temporal attention in `modules` reaches over all stretches."""
        attentions = [m for module in modules for m in module.modules() if isinstance(m, TemporalAttention)]
        for attention in attentions:
            attention.sequence_group = self.group
        try:
            yield
        finally:
            for attention in attentions:
                attention.sequence_group = None


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a module; none where it has no `blocks`."""
    return list(dict(module.named_children()).get("blocks", nn.ModuleList()).children())


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Sums the gradients of replicated parameters over all processes; sharded ones have been summed already."""
    replicated = [p for p in parameters if not isinstance(p, DTensor)]
    if num_workers() == 1 or not replicated:
        return
    flat = torch.cat([p.grad.flatten() for p in replicated if p.grad is not None])
    dist.all_reduce(flat)
    start = 0
    for p in replicated:
        p.grad = flat[start : start + p.numel()].view_as(p).clone()
        start += p.numel()


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shards, on the CPU; every process must ask for it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


def from_first(value: float) -> float:
    """Rank 0's value."""
    if num_workers() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    dist.broadcast(shared, 0)
    return shared.item()


def mean_over_workers(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics averaged over all processes."""
    if num_workers() == 1:
        return metrics
    values: list[Any] = [None] * num_workers()
    dist.all_gather_object(values, metrics)
    return {name: sum(v[name] for v in values) / len(values) for name in metrics}
