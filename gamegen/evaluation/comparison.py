"""Is one checkpoint better than another? Two reports of the same worlds, figure by figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Goal = Literal["higher", "lower", "one"]


@dataclass(frozen=True)
class Metric:
    """Which way a figure should go, and by how much it must differ to count.

    `one` means as near to 1 as can be, above and below alike. `margin` is absolute; for `one` it is a difference
    of logarithms.
    """

    goal: Goal
    margin: float


METRICS: dict[str, Metric] = {
    "turns: flow left > 0 > right": Metric("higher", 0.05),
    "forward: flow expands": Metric("higher", 0.05),
    "still: speed as share of walking": Metric("lower", 0.05),
    "night darker than noon": Metric("higher", 0.05),
    "desert warmer than snow": Metric("higher", 0.05),
    "make it night: darker by a fifth": Metric("higher", 0.05),
    "long play: detail / real clips": Metric("one", 0.05),
}
"""The figures that decide. Others of a report inform and do not decide."""


@dataclass(frozen=True)
class Verdict:
    """Sentences on every deciding figure that moved: `better`, `worse`; names of those that did not: `equal`."""

    better: tuple[str, ...]
    worse: tuple[str, ...]
    equal: tuple[str, ...]

    @property
    def beats(self) -> bool:
        """Better somewhere and worse nowhere."""
        return bool(self.better) and not self.worse


def compare(candidate: Mapping[str, float], current: Mapping[str, float]) -> Verdict:
    """Compares the figures of two reports.

    A figure that only one of them has counts against the one that lacks it, or a check could be skipped to win.
    """
    better, worse, equal = [], [], []
    for name, metric in METRICS.items():
        if name not in candidate and name not in current:
            continue
        new, old = candidate.get(name), current.get(name)
        gain = _gain(metric, new, old)
        sentence = f"{name}: {_shown(old)} -> {_shown(new)}"
        if gain > metric.margin:
            better.append(sentence)
        elif gain < -metric.margin:
            worse.append(sentence)
        else:
            equal.append(name)
    return Verdict(tuple(better), tuple(worse), tuple(equal))


def _gain(metric: Metric, new: float | None, old: float | None) -> float:
    if new is None or old is None:
        return math.inf if old is None else -math.inf
    if metric.goal == "one":
        return abs(math.log(max(old, 1e-6))) - abs(math.log(max(new, 1e-6)))
    return new - old if metric.goal == "higher" else old - new


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
