"""Detection that an ingress replica is drained, by a clock that stands still."""

from __future__ import annotations

import asyncio
import threading

import pytest

from deployments.ingress import draining
from deployments.ingress.draining import DrainWatch
from tests.stopped_clock import StoppedClock

PERIOD_S = 3600.0
"""So long that the watch reviews nothing by itself while a test runs."""
PATIENCE_S = 60.0


class Controller:
    """Answers, or is away."""

    def __init__(self, is_there: bool) -> None:
        self.is_there = is_there
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1
        if not self.is_there:
            raise ConnectionError("away")


class Drained:
    """Counts how often a replica was told that it is drained."""

    def __init__(self) -> None:
        self.count = 0
        self.happened = asyncio.Event()

    async def __call__(self) -> None:
        self.count += 1
        self.happened.set()


@pytest.fixture
def clock(monkeypatch) -> StoppedClock:
    clock = StoppedClock()
    monkeypatch.setattr(draining, "time", clock)
    return clock


async def reviews(watch: DrainWatch, clock: StoppedClock, count: int) -> None:
    for _ in range(count):
        clock.now += PERIOD_S
        await watch.review()


async def test_checks_that_stay_away_while_the_controller_answers_mean_draining(clock):
    controller, drained = Controller(True), Drained()
    watch = DrainWatch(PERIOD_S, drained, controller)
    watch.record_check()
    # Three checks are missed before the controller is asked, and three more while it answers.
    await reviews(watch, clock, 2)
    assert controller.asked == 0
    await reviews(watch, clock, 3)
    assert (controller.asked, drained.count, watch.is_draining) == (3, 0, False)
    await reviews(watch, clock, 1)
    assert (drained.count, watch.is_draining) == (1, True)
    # Once is enough.
    await reviews(watch, clock, 10)
    assert drained.count == 1


async def test_nobody_drains_while_the_controller_is_away(clock):
    controller, drained = Controller(False), Drained()
    watch = DrainWatch(PERIOD_S, drained, controller)
    watch.record_check()
    await reviews(watch, clock, 50)
    assert controller.asked == 48 and not drained.count


async def test_a_controller_that_comes_back_is_given_time_to_ask(clock):
    controller, drained = Controller(False), Drained()
    watch = DrainWatch(PERIOD_S, drained, controller)
    watch.record_check()
    await reviews(watch, clock, 10)
    controller.is_there = True
    await reviews(watch, clock, 3)
    assert not drained.count
    watch.record_check()
    await reviews(watch, clock, 5)
    assert not drained.count
    await reviews(watch, clock, 1)
    assert drained.count == 1
    watch.record_check()
    assert not watch.is_draining


async def test_a_question_that_hangs_is_not_asked_again(clock, monkeypatch):
    monkeypatch.setattr(draining, "_CONTROLLER_TIMEOUT_S", 0.01)
    answer, asked, drained = threading.Event(), [], Drained()

    def hang() -> None:
        asked.append(1)
        answer.wait(PATIENCE_S)

    watch = DrainWatch(PERIOD_S, drained, hang)
    watch.record_check()
    await reviews(watch, clock, 10)
    assert len(asked) == 1 and not drained.count
    answer.set()


async def test_the_watch_reviews_by_itself_once_it_was_checked():
    drained = Drained()
    watch = DrainWatch(0.01, drained, Controller(True))
    assert not drained.count
    watch.record_check()
    async with asyncio.timeout(PATIENCE_S):
        await drained.happened.wait()
