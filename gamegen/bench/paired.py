"""Measures variants side by side: rounds take turns, so that whatever else a machine does meets all of them."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

REPLICATES = 2000
WARMUP_ROUNDS = 2


class Workload(Protocol):
    """Something to measure, loaded and ready."""

    stages: tuple[str, ...]
    """Names of what one round consists of, in order."""
    frames_per_round: int
    flop_per_round: float
    """Floating-point operations of a round, as counted from its shapes."""

    def round(self) -> Sequence[float]:
        """Does one round; returns the seconds of each stage."""


@dataclass(frozen=True)
class Measured:
    """All rounds of one variant; `seconds` `(rounds, stages)`."""

    variant: str
    stages: tuple[str, ...]
    seconds: np.ndarray
    frames_per_round: int
    flop_per_round: float
    memory_bytes: int
    memory_of: str

    @property
    def totals_s(self) -> np.ndarray:
        """Seconds of each whole round."""
        return self.seconds.sum(1)

    @property
    def fps(self) -> float:
        """Frames a second over all rounds."""
        return self.frames_per_round * len(self.seconds) / float(self.totals_s.sum())

    @property
    def flops_per_s(self) -> float:
        """Floating-point operations a second over all rounds."""
        return self.flop_per_round * len(self.seconds) / float(self.totals_s.sum())

    def facts(self) -> dict[str, object]:
        """For JSON: frames a second, and of each stage and the whole the mean and percentiles in milliseconds."""
        rows = {name: self.seconds[:, i] for i, name in enumerate(self.stages)} | {"total": self.totals_s}
        return {
            "variant": self.variant,
            "rounds": len(self.seconds),
            "frames_per_s": self.fps,
            "flop_per_round": self.flop_per_round,
            "flops_per_s": self.flops_per_s,
            "memory_bytes": self.memory_bytes,
            "memory_of": self.memory_of,
            "stages_ms": {name: summary_ms(seconds) for name, seconds in rows.items()},
        }


@dataclass(frozen=True)
class Ratio:
    """How many times as fast the first of two variants is, with its 95 % interval over rounds."""

    value: float
    low: float
    high: float


def measure(
    workloads: dict[str, Workload], rounds: int, advance: Callable[[], None] = lambda: None
) -> list[Measured]:
    """Runs `rounds` rounds of every workload in turns, after warm-up; `advance` is called after each.

    Raises ValueError for fewer than two rounds.
    """
    if rounds < 2:
        raise ValueError(f"rounds = {rounds}: at least 2 are needed for percentiles")
    seconds: dict[str, list[Sequence[float]]] = {name: [] for name in workloads}
    for number in range(WARMUP_ROUNDS + rounds):
        for name, workload in workloads.items():
            taken = workload.round()
            if number >= WARMUP_ROUNDS:
                seconds[name].append(taken)
            advance()
    memory, memory_of = _peak_memory()
    return [
        Measured(
            name,
            workload.stages,
            np.array(seconds[name]),
            workload.frames_per_round,
            workload.flop_per_round,
            memory,
            memory_of,
        )
        for name, workload in workloads.items()
    ]


def ratio(a: Measured, b: Measured) -> Ratio:
    """How many times the frames a second of `b` the first one draws; rounds are resampled in pairs."""
    draws = np.random.default_rng(0).integers(0, len(a.seconds), (REPLICATES, len(a.seconds)))
    scale = a.frames_per_round / b.frames_per_round
    replicates = scale * b.totals_s[draws].sum(1) / a.totals_s[draws].sum(1)
    low, high = np.percentile(replicates, [2.5, 97.5])
    return Ratio(scale * float(b.totals_s.sum() / a.totals_s.sum()), float(low), float(high))


def summary_ms(seconds: np.ndarray) -> dict[str, float]:
    """Mean and percentiles in milliseconds."""
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1e3
    return {"mean": float(seconds.mean() * 1e3), "p50": float(p50), "p95": float(p95), "p99": float(p99)}


def _peak_memory() -> tuple[int, str]:
    """The most memory taken so far, and of what: the GPU's, else this process's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(), "GPU memory, all variants"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "this process, all variants"
