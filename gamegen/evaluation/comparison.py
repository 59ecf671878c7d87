"""Comparison of two checkpoints by their reports on equal worlds, figure by figure.

A figure differs if the 95 % interval of its paired difference leaves 0 out. Both reports have paired replicates (see
`bootstrap`), so that interval is the percentile interval of their differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gamegen.evaluation import bootstrap
from gamegen.evaluation.evaluation_report import Figure
from gamegen.evaluation.metrics import METRICS, Goal


@dataclass(frozen=True)
class Comparison:
    """Deciding figures of a candidate: sentences on those significantly `better` or `worse`, names of `equal` ones."""

    better: tuple[str, ...]
    worse: tuple[str, ...]
    equal: tuple[str, ...]

    @property
    def beats(self) -> bool:
        """True if some figure is better and none worse."""
        return bool(self.better) and not self.worse


def compare(candidate: Mapping[str, Figure], current: Mapping[str, Figure]) -> Comparison:
    """Compares the figures of two reports.

    A figure that only one of them has counts against the one that lacks it, or a check could be skipped to win.
    Raises ValueError for a figure that they measured on different seeds or clips.
    """
    better, worse, equal = [], [], []
    for name, metric in METRICS.items():
        new, old = candidate.get(name), current.get(name)
        if not metric.decides or (new is None and old is None):
            continue
        low, high = _gain(name, metric.goal, new, old)
        sentence = f"{name}: {_shown(old)} -> {_shown(new)}"
        if low > 0:
            better.append(sentence)
        elif high < 0:
            worse.append(sentence)
        else:
            equal.append(name)
    return Comparison(better=tuple(better), worse=tuple(worse), equal=tuple(equal))


def _gain(name: str, goal: Goal, new: Figure | None, old: Figure | None) -> tuple[float, float]:
    """Interval of the new figure's gain over the old one's, in the direction of its goal."""
    if new is None or old is None:
        return (math.inf, math.inf) if old is None else (-math.inf, -math.inf)
    if new.units != old.units or len(new.replicates) != len(old.replicates):
        raise ValueError(
            f"{name!r} was measured on {new.units} and on {old.units}: evaluate both on equal ones"
        )
    a, b = np.array(new.replicates), np.array(old.replicates)
    if goal == "one":
        return bootstrap.interval(_distance_from_one(b) - _distance_from_one(a))
    return bootstrap.interval(a - b if goal == "higher" else b - a)


def _distance_from_one(values: np.ndarray) -> np.ndarray:
    return np.abs(np.log(values.clip(1e-6)))


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return "not measured"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
