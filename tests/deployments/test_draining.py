"""When an ingress replica believes that it is to go."""

from __future__ import annotations

import asyncio
import time

from deployments.draining import DrainWatch

PERIOD_S = 0.02
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


async def until(happened) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(PERIOD_S)


def watch(controller) -> tuple[DrainWatch, list[float]]:
    """A watch that was asked for its health once, and when it saw itself drained."""
    drained: list[float] = []

    async def on_draining() -> None:
        drained.append(time.monotonic())

    watch = DrainWatch(PERIOD_S, on_draining, controller)
    watch.checked()
    return watch, drained


async def test_checks_that_stay_away_while_the_controller_answers_mean_draining():
    watched, drained = watch(Controller(True))
    await until(lambda: drained)
    assert watched.is_draining
    # Once is enough.
    await asyncio.sleep(10 * PERIOD_S)
    assert len(drained) == 1


async def test_nobody_drains_while_the_controller_is_away():
    controller = Controller(False)
    _, drained = watch(controller)
    await until(lambda: controller.asked > 10)
    assert not drained


async def test_a_controller_that_comes_back_is_given_time_to_ask():
    controller = Controller(False)
    watched, drained = watch(controller)
    await until(lambda: controller.asked > 3)
    back_s, controller.is_there = time.monotonic(), True
    await until(lambda: drained)
    assert drained[0] - back_s >= 3 * PERIOD_S
    watched.checked()
    assert not watched.is_draining


async def test_a_question_that_hangs_is_not_asked_again():
    import threading

    answer, asked = threading.Event(), []

    def hang() -> None:
        asked.append(1)
        answer.wait(PATIENCE_S)

    _, drained = watch(hang)
    await until(lambda: asked)
    await asyncio.sleep(20 * PERIOD_S)
    assert len(asked) == 1 and not drained
    answer.set()
    await until(lambda: drained)
