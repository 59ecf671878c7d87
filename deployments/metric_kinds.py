"""Counters, levels and histograms: Ray's metrics as this application uses them.

Each has one tag at most. They are made in Ray when they are first used: only then does Serve know the application,
deployment and replica that it tags them with.
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

_KEPT_S = 5.0
"""Ray forgets a gauge that was not set for two of its reports, 20 s."""

P = ParamSpec("P")
R = TypeVar("R")


class _RayCounter(metrics.Counter):
    def begin(self, tags: dict[str, str]) -> None:
        """Exports the counter at 0: Prometheus could not tell that one which is first seen at 1 has risen."""
        self._record(0, tags)


class Counter:
    """Counts up, for each value of its tag if it has one; exported from 0 on for `values`."""

    def __init__(self, name: str, description: str, tag: str = "", values: Sequence[str] = ("",)) -> None:
        self.name = name
        self._description = description
        self._tag = tag
        self._values = values

    @functools.cached_property
    def _ray(self) -> _RayCounter:
        return _RayCounter(self.name, self._description, (self._tag,) if self._tag else None)

    def begin(self) -> None:
        """Exports it before anything was counted."""
        for value in self._values:
            self._ray.begin(self._tags(value))

    def add(self, amount: float = 1.0, *, tag: str = "") -> None:
        """Counts; an amount of 0 is none."""
        if amount:
            self._ray.inc(amount, self._tags(tag))

    def _tags(self, value: str) -> dict[str, str]:
        return {self._tag: value} if self._tag else {}


class Level:
    """How many there are just now in this process, for each value of its tag if it has one.

    `keep` it, or it is forgotten.
    """

    def __init__(self, name: str, description: str, tag: str = "", values: Sequence[str] = ("",)) -> None:
        self.name = name
        self._description = description
        self._tag = tag
        self._levels = dict.fromkeys(values, 0.0)
        self._lock = threading.Lock()

    @functools.cached_property
    def _ray(self) -> metrics.Gauge:
        return metrics.Gauge(self.name, self._description, (self._tag,) if self._tag else None)

    def set(self, value: float, *, tag: str = "") -> None:
        """There are so many."""
        with self._lock:
            self._tell(tag, value)

    def add(self, amount: float, *, tag: str = "") -> None:
        """There are so many more, or fewer if it is negative."""
        with self._lock:
            self._tell(tag, self._levels[tag] + amount)

    def tell_again(self) -> None:
        """Exports all of it as it is."""
        with self._lock:
            for tag, value in self._levels.items():
                self._tell(tag, value)

    def _tell(self, tag: str, value: float) -> None:
        self._levels[tag] = value
        self._ray.set(value, {self._tag: tag} if self._tag else {})

    def during(self, work: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Decorates a coroutine function: each of its calls is one more for as long as it takes."""

        @functools.wraps(work)
        async def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            self.add(1)
            try:
                return await work(*args, **kwargs)
            finally:
                self.add(-1)

        return counted


class Histogram:
    """How many observations lie between boundaries, for each value of its tag if it has one."""

    def __init__(self, name: str, description: str, boundaries: Sequence[float], tag: str = "") -> None:
        self.name = name
        self._description = description
        self._boundaries = boundaries
        self._tag = tag

    @functools.cached_property
    def _ray(self) -> metrics.Histogram:
        tags = (self._tag,) if self._tag else None
        return metrics.Histogram(self.name, self._description, [*self._boundaries], tags)

    def observe(self, value: float, *, tag: str = "") -> None:
        """Enters an observation."""
        self._ray.observe(value, {self._tag: tag} if self._tag else {})


def keep(levels: Sequence[Level]) -> None:
    """Exports levels from now on for as long as this replica lives; outside of Serve nobody reads them."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return
    threading.Thread(target=_tell_again, args=(levels,), name="metrics", daemon=True).start()


def _tell_again(levels: Sequence[Level]) -> None:
    while True:
        for level in levels:
            level.tell_again()
        time.sleep(_KEPT_S)
