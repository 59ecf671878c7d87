"""Intake with the real queue: texts and images are checked, and orders go back when it ends or a worker is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from gamegen.service.orders.records import Failure
from gamegen.service.orders.states import State
from gamegen.service.safety.settings import SafetySettings
from gamegen.service.safety.verdict import SafetyVerdict
from tests.picture_samples import png
from tests.service.orders.orders import check_books, rows, tiny_order
from tests.workshop import PATIENCE_S, Workshop, late, running

BRIGHT = "tests.workshop:RefusesBright"


WAITS = f"{__name__}:WaitingChecker"
FAILS = f"{__name__}:FailingChecker"


class WaitingChecker:
    """A prompt checker that allows everything, once `may_answer` is set."""

    may_answer = threading.Event()

    def __init__(self, settings: SafetySettings) -> None: ...

    def check(self, subject: str, text: str) -> SafetyVerdict:
        assert self.may_answer.wait(PATIENCE_S)
        return SafetyVerdict(subject, "waiting", 0.0, 0.5, True)


class FailingChecker:
    """A prompt checker whose first two calls fail."""

    calls = 0

    def __init__(self, settings: SafetySettings) -> None: ...

    def check(self, subject: str, text: str) -> SafetyVerdict:
        FailingChecker.calls += 1
        if self.calls < 3:
            raise RuntimeError("the model cannot be loaded")
        return SafetyVerdict(subject, "failing", 0.0, 0.5, True)


@pytest.fixture
def waiting() -> Iterator[SafetySettings]:
    """Checks that wait until `WaitingChecker.may_answer` is set."""
    WaitingChecker.may_answer.clear()
    yield SafetySettings(prompt_checkers=(WAITS,), frames_checkers=("none",))
    # Its thread would keep the process from ending.
    WaitingChecker.may_answer.set()


async def test_orders_are_checked_and_go_on_to_generators(workshop: Workshop) -> None:
    """An order that is refused or cannot be read ends alone."""
    workshop.store.write("inputs/1", png(64, 64))
    workshop.store.write("inputs/2", b"no picture")
    safety = SafetySettings(prompt_checkers=("blocklist",), frames_checkers=(BRIGHT,))
    videos = await workshop.placed(
        tiny_order(seed=1),
        tiny_order(seed=2, prompt="a nude woman"),
        tiny_order(seed=4, image_key="inputs/1"),
        tiny_order(seed=5, image_key="inputs/2"),
        tiny_order(seed=6, negative_prompt="fog"),
    )
    async with running(workshop.housekeeping(safety).run()):
        done = [
            await workshop.reached(video, lambda order: order.state not in (State.PENDING, State.ENCODING))
            for video in videos
        ]
    assert [one.state for one in done] == [
        State.QUEUED,
        State.BLOCKED,
        State.BLOCKED,
        State.FAILED,
        State.QUEUED,
    ]
    assert [one.failure.code for one in done if one.failure] == [
        "words_refused",
        "image_refused",
        "invalid_input",
    ]
    audited = await rows(workshop.engine, "select distinct generation_id from safety_audit")
    assert {row.generation_id for row in audited} == {videos[i] for i in (0, 1, 2, 4)}
    await check_books(workshop.engine)


async def test_an_order_whose_checks_fail_is_tried_again(workshop: Workshop) -> None:
    FailingChecker.calls = 0
    safety = SafetySettings(prompt_checkers=(FAILS,), frames_checkers=("none",))
    (video,) = await workshop.placed(tiny_order())
    async with running(workshop.housekeeping(safety).run()):
        queued = await workshop.reached(video, lambda order: order.state is State.QUEUED)
    assert FailingChecker.calls == 3
    assert queued.attempts == 0 and queued.failure is None


async def test_orders_of_a_lost_worker_go_back_into_the_queue(workshop: Workshop) -> None:
    """They fail after `max_attempts`."""
    (video,) = await workshop.queued(tiny_order())
    async with running(workshop.housekeeping().run()):
        for attempt in range(1, 4):
            await workshop.reached(video, lambda order: order.state is State.QUEUED)
            (claim,) = await workshop.queue.claim_batch("dead", 1, 0.01)
            assert claim.attempts == attempt
        ended = await workshop.ended(video)
    assert ended.state is State.FAILED
    assert ended.failure == Failure("worker_lost", "its worker was lost 3 times in a row")
    await check_books(workshop.engine)


async def test_intake_that_ends_gives_its_orders_back(workshop: Workshop, waiting: SafetySettings) -> None:
    (video,) = await workshop.placed(tiny_order())
    async with running(workshop.housekeeping(waiting).run()):
        await workshop.reached(video, lambda order: order.state is State.ENCODING)
    given = await workshop.queue.get(video, None)
    assert (given.state, given.attempts) == (State.PENDING, 0)


async def test_orders_that_intake_was_about_to_get_are_released_too(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intake ends while the database's answer to its claim is on its way."""
    monkeypatch.setattr(workshop.queue, "claim_pending", late(workshop.queue.claim_pending))
    (video,) = await workshop.placed(tiny_order())
    async with running(workshop.housekeeping().run()):
        await workshop.reached(video, lambda order: order.state is State.ENCODING)
    given = await workshop.queue.get(video, None)
    assert (given.state, given.attempts) == (State.PENDING, 0)


async def test_intake_renews_the_leases_of_slow_checks(workshop: Workshop, waiting: SafetySettings) -> None:
    """No other intake is given the orders meanwhile."""
    (video,) = await workshop.placed(tiny_order())
    async with running(workshop.housekeeping(waiting, lease_s=0.2).run()):
        await workshop.reached(video, lambda order: order.state is State.ENCODING)
        first = await lease_of(workshop, video)
        async with asyncio.timeout(30):
            while await lease_of(workshop, video) == first:
                await asyncio.sleep(0.02)
        WaitingChecker.may_answer.set()
        await workshop.reached(video, lambda order: order.state is State.QUEUED)


async def lease_of(workshop: Workshop, video: str):
    found = await rows(workshop.engine, "select lease_until from generations where id = :id", id=video)
    return found[0].lease_until
