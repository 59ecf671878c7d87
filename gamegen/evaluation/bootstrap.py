"""Bootstrap intervals of figures, which say how much a figure would change with other seeds.

The percentile interval of Efron and Tibshirani 1993, "An Introduction to the Bootstrap" (chapter 13), for statistics
with a bias moved by the bootstrap estimate of it (section 10.2). Every figure is a statistic of units (seeds or clips),
which are drawn with replacement, `REPLICATES` times. The draws depend on nothing but the number of units, so two
reports on equal units have paired replicates, and the differences of these are paired differences. That is why
`scipy.stats.bootstrap` does not fit: its BCa interval needs all units of both reports at once, and reports keep
replicates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

REPLICATES = 400
CONFIDENCE = 0.95
_NO_UNITS = "0 seeds or clips: an interval needs at least 1"

Statistic = Callable[[np.ndarray], float]
"""A function of indices of units, which may repeat, to the figure of these units."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval and its value in each draw (replicates)."""

    value: float
    low: float
    high: float
    replicates: tuple[float, ...]


def draws(num_units: int) -> np.ndarray:
    """Indices `(REPLICATES, num_units)` of the draws with replacement, equal for equal `num_units`."""
    return np.random.default_rng(num_units).integers(0, num_units, (REPLICATES, num_units))


def estimate(statistic: Statistic, num_units: int) -> Estimate:
    """Estimate of a statistic over all units, with a bias-corrected percentile interval; raises ValueError for none.

    Some statistics (distances of distributions) grow where units repeat, so all draws lie to one side: the interval is
    moved by the draws' mean less the value.
    """
    if not num_units:
        raise ValueError(_NO_UNITS)
    return of_replicates(
        statistic(np.arange(num_units)), tuple(statistic(indices) for indices in draws(num_units))
    )


def of_replicates(value: float, replicates: tuple[float, ...]) -> Estimate:
    """Estimate of a value from its replicates, with a bias-corrected percentile interval."""
    bias = float(np.mean(replicates)) - value
    low, high = interval(replicates)
    return Estimate(value=value, low=low - bias, high=high - bias, replicates=replicates)


def mean_of(values: np.ndarray) -> Estimate:
    """Estimate of the mean of one value a unit, `(N,)`; raises ValueError for none. For shares see `share_of`."""
    if not len(values):
        raise ValueError(_NO_UNITS)
    # Means do not lie to one side, and unmoved intervals of shares stay within 0 and 1.
    replicates = tuple(values[draws(len(values))].mean(1).tolist())
    low, high = interval(replicates)
    return Estimate(value=float(values.mean()), low=low, high=high, replicates=replicates)


def share_of(obeyed: np.ndarray) -> Estimate:
    """Estimate of the share of units `(N,)` that are true.

    Where all agree no draw differs and the interval would have no width: there it is Clopper and Pearson's (1934).
    """
    result = mean_of(obeyed.astype(np.float64))
    if 0 < result.value < 1:
        return result
    successes, n = int(obeyed.sum()), len(obeyed)
    exact = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, "exact")
    return replace(result, low=float(exact.low), high=float(exact.high))


def interval(replicates: np.ndarray | tuple[float, ...]) -> tuple[float, float]:
    """Percentile interval: the middle 95 % of a statistic's replicates."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.asarray(replicates), (tail, 1 - tail))
    return float(low), float(high)
