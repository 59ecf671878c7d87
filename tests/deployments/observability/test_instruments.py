"""Gauges as Ray is given them, without a running Ray."""

from __future__ import annotations

import pytest
from ray.serve.metrics import Gauge as RayGauge

from deployments.observability import instruments
from deployments.observability.instruments import Gauge


@pytest.fixture
def exported(monkeypatch) -> list[float]:
    """Values that Ray's gauges were set to, in order."""
    values: list[float] = []
    monkeypatch.setattr(RayGauge, "set", lambda self, value, tags: values.append(value))
    return values


async def test_a_gauge_counts_running_calls_also_when_they_fail(exported):
    @Gauge("gamegen_inside", "").during
    async def play() -> None:
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        await play()
    assert exported == [1, 0]


def test_a_gauge_is_exported_again_since_ray_drops_it(exported, monkeypatch):
    pauses = iter([None, None])
    monkeypatch.setattr(instruments.time, "sleep", lambda _: next(pauses))
    gauge = Gauge("gamegen_kept", "")
    gauge.set(5)
    with pytest.raises(StopIteration):
        instruments._export_forever([gauge])
    assert exported == [5, 5, 5, 5]
