"""Paired benchmarks: rounds of all variants alternate, so that other load on the machine affects all of them."""

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
    """A workload to measure, loaded and ready."""

    stages: tuple[str, ...]
    """Names of a round's stages, in order."""
    frames_per_round: int
    flop_per_round: float
    """Floating-point operations of a round, counted from its shapes."""

    def round(self) -> Sequence[float]:
        """Runs one round; returns the seconds of each stage."""


@dataclass(frozen=True)
class Measured:
    """Timings of one variant; `seconds` `(rounds, stages)`."""

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
        """The result for JSON: rates, and for each stage and the total mean and percentiles in milliseconds."""
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
    """Speed of one variant divided by that of another, with a 95 % interval over rounds."""

    value: float
    low: float
    high: float


def measure(
    workloads: dict[str, Workload], rounds: int, advance: Callable[[], None] = lambda: None
) -> list[Measured]:
    """Runs `rounds` rounds of every workload alternately, after warm-up; `advance` is called after each.

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
    """Frames per second of `a` divided by those of `b`; the interval resamples rounds in pairs."""
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
    """Peak memory in bytes, and its owner: the GPU if there is one, else this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(), "GPU memory, all variants"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "this process, all variants"
