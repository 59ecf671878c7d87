"""A clerk with the real queue: words are judged and encoded, lost orders go back, and its own do too when it ends."""

from __future__ import annotations

import asyncio

import pytest

from gamegen.safety.settings import SafetySettings
from gamegen.videos.records import Failure
from gamegen.videos.states import State
from tests.clips.orders import an_order
from tests.test_video import png
from tests.videos.orders import check_books, rows
from tests.workshop import Words, Workshop, late, running

BRIGHT = "tests.workshop:RefusesBright"


class Waiting(Words):
    """An encoder that answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def texts(self, order):
        await self.go_on.wait()
        return await super().texts(order)


class Failing(Words):
    """An encoder that is there for nobody but the third who asks."""

    async def texts(self, order):
        self.calls += 1
        if self.calls < 3:
            raise RuntimeError("the replica died")
        return await super().texts(order)


async def test_orders_are_judged_and_go_on_to_generators(workshop: Workshop) -> None:
    """One that may not be drawn, or cannot, ends alone."""
    workshop.store.write("inputs/1", png(64, 64))
    workshop.store.write("inputs/2", b"no picture")
    safety = SafetySettings(prompt_checkers=("blocklist",), frames_checkers=(BRIGHT,))
    videos = await workshop.placed(
        an_order(seed=1),
        an_order(seed=2, prompt="a nude woman"),
        an_order(seed=3, prompt="endless"),
        an_order(seed=4, image_key="inputs/1"),
        an_order(seed=5, image_key="inputs/2"),
        an_order(seed=6, negative_prompt="fog"),
    )
    async with running(workshop.clerk(safety).run()):
        done = [
            await workshop.reached(video, lambda order: order.state not in (State.PENDING, State.ENCODING))
            for video in videos
        ]
    assert [one.state for one in done] == [
        State.QUEUED,
        State.BLOCKED,
        State.FAILED,
        State.BLOCKED,
        State.FAILED,
        State.QUEUED,
    ]
    assert [one.failure.code for one in done if one.failure] == [
        "words_refused",
        "invalid_input",
        "image_refused",
        "invalid_input",
    ]
    audited = await rows(workshop.engine, "select distinct generation_id from safety_audit")
    assert {row.generation_id for row in audited} == {videos[i] for i in (0, 1, 2, 3, 5)}
    await check_books(workshop.engine)


async def test_words_that_could_not_be_encoded_are_tried_again(workshop: Workshop) -> None:
    (video,) = await workshop.placed(an_order())
    async with running(workshop.clerk(encoder=Failing()).run()):
        queued = await workshop.reached(video, lambda order: order.state is State.QUEUED)
    assert queued.attempts == 0 and queued.failure is None


async def test_orders_of_a_lost_worker_go_back_into_the_queue(workshop: Workshop) -> None:
    """And fail when they were lost too often."""
    (video,) = await workshop.queued(an_order())
    async with running(workshop.clerk().run()):
        for attempt in range(1, 4):
            await workshop.reached(video, lambda order: order.state is State.QUEUED)
            (claim,) = await workshop.queue.claim_batch("dead", 1, 0.01)
            assert claim.attempts == attempt
        ended = await workshop.ended(video)
    assert ended.state is State.FAILED
    assert ended.failure == Failure("worker_lost", "its worker was lost 3 times in a row")
    await check_books(workshop.engine)


async def test_a_clerk_that_ends_gives_its_orders_back(workshop: Workshop) -> None:
    (video,) = await workshop.placed(an_order())
    async with running(workshop.clerk(encoder=Waiting()).run()):
        await workshop.reached(video, lambda order: order.state is State.ENCODING)
    given = await workshop.queue.get(video, None)
    assert (given.state, given.attempts) == (State.PENDING, 0)


async def test_what_a_clerk_was_about_to_get_goes_back_too(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database may have given it the order, and the answer be on its way, when the clerk ends."""
    monkeypatch.setattr(workshop.queue, "claim_pending", late(workshop.queue.claim_pending))
    (video,) = await workshop.placed(an_order())
    async with running(workshop.clerk().run()):
        await workshop.reached(video, lambda order: order.state is State.ENCODING)
    given = await workshop.queue.get(video, None)
    assert (given.state, given.attempts) == (State.PENDING, 0)


async def test_a_clerk_renews_what_it_needs_long_for(workshop: Workshop) -> None:
    """The words of many orders may take longer than a lease, which nobody else is given meanwhile."""
    encoder = Waiting()
    (video,) = await workshop.placed(an_order())
    async with running(workshop.clerk(encoder=encoder, lease_s=0.2).run()):
        await workshop.reached(video, lambda order: order.state is State.ENCODING)
        first = await lease_of(workshop, video)
        async with asyncio.timeout(30):
            while await lease_of(workshop, video) == first:
                await asyncio.sleep(0.02)
        encoder.go_on.set()
        await workshop.reached(video, lambda order: order.state is State.QUEUED)


async def lease_of(workshop: Workshop, video: str):
    found = await rows(workshop.engine, "select lease_until from generations where id = :id", id=video)
    return found[0].lease_until
