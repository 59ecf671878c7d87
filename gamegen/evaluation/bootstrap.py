"""Intervals by resampling: how much would a figure change with other seeds?

Efron and Tibshirani 1993, "An Introduction to the Bootstrap". Every figure is a statistic of units (seeds or clips);
units are drawn with replacement, `REPLICATES` times. The draws depend on nothing but the number of units: the same
draw of the same seeds stands behind two reports, so differences of their replicates are paired differences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

REPLICATES = 400
CONFIDENCE = 0.95
_NO_UNITS = "an interval needs at least one seed or clip, got none"

Statistic = Callable[[np.ndarray], float]
"""A figure of the units with these indices, which may repeat."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval and what it was in each draw."""

    value: float
    low: float
    high: float
    replicates: tuple[float, ...]


def draws(num_units: int) -> np.ndarray:
    """Indices `(REPLICATES, num_units)` of each draw with replacement."""
    return np.random.default_rng(num_units).integers(0, num_units, (REPLICATES, num_units))


def estimate(statistic: Statistic, num_units: int) -> Estimate:
    """A statistic of all units, with its percentile interval.

    Some statistics (distances of distributions) grow where units repeat, so all draws lie to one side: the interval is
    moved by as much as the draws' mean is off the value.
    """
    if not num_units:
        raise ValueError(_NO_UNITS)
    return of_replicates(
        statistic(np.arange(num_units)), tuple(statistic(indices) for indices in draws(num_units))
    )


def of_replicates(value: float, replicates: tuple[float, ...]) -> Estimate:
    """A value with the interval that its replicates give."""
    bias = float(np.mean(replicates)) - value
    low, high = interval(replicates)
    return Estimate(value, low - bias, high - bias, replicates)


def mean_of(values: np.ndarray) -> Estimate:
    """The mean of one value a unit, `(N,)`. For shares that all units agree on, see `share_of`."""
    if not len(values):
        raise ValueError(_NO_UNITS)
    # Means do not lie to one side, and unmoved intervals of shares stay within 0 and 1.
    replicates = tuple(values[draws(len(values))].mean(1).tolist())
    return Estimate(float(values.mean()), *interval(replicates), replicates)


def share_of(obeyed: np.ndarray) -> Estimate:
    """The share of units `(N,)` that are true.

    Where all agree no draw differs and the interval would have no width: Clopper and Pearson's (1934) is given.
    """
    result = mean_of(obeyed.astype(np.float64))
    if 0 < result.value < 1:
        return result
    successes, n = int(obeyed.sum()), len(obeyed)
    exact = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, "exact")
    return Estimate(result.value, float(exact.low), float(exact.high), result.replicates)


def interval(replicates: np.ndarray | tuple[float, ...]) -> tuple[float, float]:
    """The middle 95 % of a statistic's replicates."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.asarray(replicates), (tail, 1 - tail))
    return float(low), float(high)
