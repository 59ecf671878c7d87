"""Counters, gauges and histograms: thin wrappers of Ray's metrics.

Each has at most one tag. Ray's metric is created at first use: only then does Serve know the application, deployment
and replica that it tags the metric with.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import ParamSpec, TypeVar

from ray import serve
from ray.serve import metrics
from ray.serve.exceptions import RayServeException

_EXPORT_EVERY_S = 5.0
"""Interval at which gauges are set again: Ray drops one that was not set for two of its reports, 20 s."""

P = ParamSpec("P")
R = TypeVar("R")


class _RayCounter(metrics.Counter):
    def begin(self, tags: dict[str, str]) -> None:
        """Exports the counter at 0: Prometheus sees no increase of a counter that first appears at 1."""
        self._record(0, tags)


class Counter:
    """A counter, with one series for each value of its tag if it has one; those of `values` are exported at 0."""

    def __init__(self, name: str, description: str, *, tag: str = "", values: Sequence[str] = ("",)) -> None:
        self.name = name
        self._description = description
        self._tag = tag
        self._values = values

    @functools.cached_property
    def _ray(self) -> _RayCounter:
        return _RayCounter(self.name, self._description, (self._tag,) if self._tag else None)

    def begin(self) -> None:
        """Exports the series of `values` at 0."""
        for value in self._values:
            self._ray.begin(self._tags(value))

    def add(self, amount: float = 1.0, *, tag: str = "") -> None:
        """Adds to the counter; an amount of 0 creates no series."""
        if amount:
            self._ray.inc(amount, self._tags(tag))

    def _tags(self, value: str) -> dict[str, str]:
        return {self._tag: value} if self._tag else {}


class Gauge:
    """A gauge of this process, with one series for each value of its tag if it has one; see `keep_exporting`."""

    def __init__(self, name: str, description: str, *, tag: str = "", values: Sequence[str] = ("",)) -> None:
        self.name = name
        self._description = description
        self._tag = tag
        self._series = dict.fromkeys(values, 0.0)
        self._lock = threading.Lock()

    @functools.cached_property
    def _ray(self) -> metrics.Gauge:
        return metrics.Gauge(self.name, self._description, (self._tag,) if self._tag else None)

    def set(self, value: float, *, tag: str = "") -> None:
        """Sets the gauge."""
        with self._lock:
            self._set(tag, value)

    def add(self, amount: float, *, tag: str = "") -> None:
        """Adds to the gauge."""
        with self._lock:
            self._set(tag, self._series[tag] + amount)

    def export(self) -> None:
        """Sets every series in Ray again."""
        with self._lock:
            for tag, value in self._series.items():
                self._set(tag, value)

    def _set(self, tag: str, value: float) -> None:
        self._series[tag] = value
        self._ray.set(value, {self._tag: tag} if self._tag else {})

    def during(self, work: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Decorates a coroutine function: the gauge counts its running calls."""

        @functools.wraps(work)
        async def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            self.add(1)
            try:
                return await work(*args, **kwargs)
            finally:
                self.add(-1)

        return counted


class Histogram:
    """A histogram, with one series for each value of its tag if it has one."""

    def __init__(self, name: str, description: str, boundaries: Sequence[float], *, tag: str = "") -> None:
        self.name = name
        self._description = description
        self._boundaries = boundaries
        self._tag = tag

    @functools.cached_property
    def _ray(self) -> metrics.Histogram:
        tags = (self._tag,) if self._tag else None
        return metrics.Histogram(self.name, self._description, [*self._boundaries], tags)

    def observe(self, value: float, *, tag: str = "") -> None:
        """Records an observation."""
        self._ray.observe(value, {self._tag: tag} if self._tag else {})


def keep_exporting(gauges: Sequence[Gauge]) -> None:
    """Exports gauges from now on for as long as this replica lives; does nothing outside of Serve."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return
    threading.Thread(target=_export_forever, args=(gauges,), name="metrics", daemon=True).start()


def _export_forever(gauges: Sequence[Gauge]) -> None:
    while True:
        for gauge in gauges:
            gauge.export()
        time.sleep(_EXPORT_EVERY_S)
