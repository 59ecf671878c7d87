"""A clip worker with the real queue: what it has ends well, is given up, or goes back with a checkpoint."""

from __future__ import annotations

import asyncio
import hashlib
import io

import av
import pytest
from sqlalchemy import text

from gamegen.safety.settings import SafetySettings
from gamegen.video import mp4_bytes
from gamegen.videos.records import Failure
from gamegen.videos.states import State
from tests.clips.orders import an_order
from tests.test_video import moving_square, png
from tests.videos.orders import check_books, rows
from tests.workshop import SlowRenderer, Words, Workshop, digest, late, running, undisturbed


async def test_a_batch_is_drawn_and_each_is_as_if_drawn_alone(workshop: Workshop) -> None:
    """With a negative prompt and guidance, at 30 frames a second, and beside others."""
    orders = [
        an_order(seed=1, guidance_scale=2.0),
        an_order(seed=2, guidance_scale=2.0, negative_prompt="fog", prompt="a lake"),
        an_order(seed=3, guidance_scale=2.0, fps=30),
    ]
    videos = await workshop.queued(*orders)
    async with running(workshop.worker().run()):
        ended = [await workshop.ended(video) for video in videos]
    assert [one.state for one in ended] == [State.COMPLETED] * 3
    for order, one in zip(orders, ended, strict=True):
        assert one.result and one.result.frames_sha256 == digest(undisturbed(order))
        file = await asyncio.to_thread(workshop.store.read, one.result.content_key)
        assert hashlib.sha256(file).hexdigest() == one.result.content_sha256
        with av.open(io.BytesIO(file)) as clip:
            assert clip.streams.video[0].average_rate == order.fps
    # Side by side, not one after the other.
    claims = await rows(
        workshop.engine, "select distinct data->>'claim' from events where state = 'ASSIGNED'"
    )
    assert len(claims) == 1
    await check_books(workshop.engine)


@pytest.mark.parametrize("key", ["image_key", "source_key"])
async def test_a_clip_begins_with_a_picture_or_goes_on_from_a_video(workshop: Workshop, key: str) -> None:
    file = png(64, 64) if key == "image_key" else mp4_bytes(moving_square(30, 32, 32))
    workshop.store.write("inputs/1", file)
    (video,) = await workshop.queued(an_order(**{key: "inputs/1"}))
    async with running(workshop.worker().run()):
        ended = await workshop.ended(video)
    assert ended.state is State.COMPLETED, ended.failure


async def test_an_order_that_fails_ends_alone(workshop: Workshop) -> None:
    """One input is no picture, one text is too long, one object is not there: the others are drawn."""
    workshop.store.write("inputs/2", b"no picture")
    videos = await workshop.queued(
        an_order(seed=1),
        an_order(seed=2, image_key="inputs/2"),
        an_order(seed=3, prompt="endless"),
        an_order(seed=4, image_key="inputs/gone"),
        an_order(seed=5),
    )
    async with running(workshop.worker().run()):
        ended = [await workshop.ended(video) for video in videos]
    states = [one.state for one in ended]
    assert states == [State.COMPLETED, State.FAILED, State.FAILED, State.FAILED, State.COMPLETED]
    assert [one.failure.code for one in ended if one.failure] == ["cannot_be_drawn"] * 3
    # A store that does not have it now may have it later.
    assert [one.attempts for one in ended] == [1, 1, 1, 3, 1]
    await check_books(workshop.engine)


async def test_a_step_that_fails_is_tried_again_and_no_more_than_so_often(workshop: Workshop) -> None:
    renderer = SlowRenderer()
    renderer.breaks = lambda _: RuntimeError("out of memory")
    (video,) = await workshop.queued(an_order())
    async with running(workshop.worker(renderer=renderer).run()):
        ended = await workshop.ended(video)
        assert ended.state is State.FAILED and ended.attempts == 3
        assert ended.failure == Failure("internal_error", "out of memory")
        renderer.breaks = lambda _: None
        # What it took is free again: as many as there are places for.
        videos = await workshop.queued(*(an_order(seed=seed) for seed in range(8)))
        states = [(await workshop.ended(one)).state for one in videos]
    assert states == [State.COMPLETED] * 8


async def test_a_cancelled_order_stops_at_the_next_step(workshop: Workshop) -> None:
    renderer = SlowRenderer()
    renderer.free = 2
    cancelled, other = await workshop.queued(an_order(seed=1), an_order(seed=2))
    async with running(workshop.worker(renderer=renderer).run()):
        await workshop.reached(cancelled, lambda order: order.step == 2)
        await workshop.queue.cancel(cancelled, "ann")
        renderer.open = True
        ended = await workshop.ended(cancelled)
        assert ended.state is State.CANCELLED and ended.step == 3
        assert (await workshop.ended(other)).state is State.COMPLETED
    await check_books(workshop.engine)


async def test_a_lost_order_is_put_down_without_a_word(workshop: Workshop) -> None:
    """Another worker has it by then; the first says nothing more of it, and draws on for nobody."""
    renderer = SlowRenderer()
    renderer.free = 2
    (video,) = await workshop.queued(an_order())
    async with running(workshop.worker("first", renderer).run()):
        await workshop.reached(video, lambda order: order.step == 2)
        await rows_changed(workshop, "update generations set lease_until = now() - interval '1 s'")
        assert await workshop.queue.reap() == 1
        (claim,) = await workshop.queue.claim_batch("second", 1, 60)
        renderer.open = True
        async with asyncio.timeout(30):
            while renderer.steps < 3:
                await asyncio.sleep(0.01)
        (other,) = await workshop.queued(an_order(seed=9))
        assert (await workshop.ended(other)).state is State.COMPLETED
        now = await workshop.queue.get(video, None)
        assert (now.state, now.fence) == (State.ASSIGNED, claim.fence)
    said = await rows(
        workshop.engine, "select max(fence) as fence from events where generation_id = :id", id=video
    )
    assert said[0].fence == claim.fence and renderer.steps == 3 + 7


async def test_a_clip_that_may_not_be_shown_is_blocked_and_not_kept(workshop: Workshop) -> None:
    bright = "tests.workshop:RefusesBright"
    safety = SafetySettings(prompt_checkers=("none",), frames_checkers=(bright,))
    (video,) = await workshop.queued(an_order())
    async with running(workshop.worker(safety=safety).run()):
        ended = await workshop.ended(video)
    assert ended.state is State.BLOCKED and ended.failure == Failure("frames_refused", "too bright")
    assert not [*workshop.store.keys(f"videos/{video}/")]
    audited = await rows(workshop.engine, "select subject, is_allowed from safety_audit")
    assert [tuple(row) for row in audited] == [("frames", False)]


async def test_what_a_worker_was_about_to_get_goes_back_too(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop.queue, "claim_batch", late(workshop.queue.claim_batch))
    (video,) = await workshop.queued(an_order())
    async with running(workshop.worker().run()):
        await workshop.reached(video, lambda order: order.state is not State.QUEUED)
    given = await workshop.queue.get(video, None)
    assert (given.state, given.attempts) == (State.QUEUED, 0)


async def test_a_worker_that_ends_gives_back_what_it_has_as_far_as_it_is(workshop: Workshop) -> None:
    """However often it is told to; another repeats nothing, and the frames are the same."""
    order = an_order()
    renderer = SlowRenderer()
    renderer.free = 5
    (video,) = await workshop.queued(order)
    task = asyncio.create_task(workshop.worker("first", renderer, checkpoint_every_steps=50).run())
    await workshop.reached(video, lambda now: now.step == 5)
    task.cancel()
    renderer.open = True
    while not task.done():
        await asyncio.sleep(0.01)
        task.cancel()
    given = await workshop.queue.get(video, None)
    assert (given.state, given.attempts) == (State.QUEUED, 0)
    assert not await workshop.queue.workers(60)
    second = SlowRenderer()
    async with running(workshop.worker("second", second).run()):
        ended = await workshop.ended(video)
    assert renderer.steps + second.steps == 7
    assert ended.result and ended.result.frames_sha256 == digest(undisturbed(order))


@pytest.mark.parametrize("damage", ["gone", "damaged", "of another order"])
async def test_a_checkpoint_that_cannot_be_read_begins_the_clip_anew(workshop: Workshop, damage: str) -> None:
    order = an_order()
    (video,) = await workshop.queued(order)
    (claim,) = await workshop.queue.claim_batch("dead", 1, 60)
    await workshop.queue.checkpointed(video, claim.fence, 2, "videos/x/2.safetensors", 9)
    if damage != "gone":
        renderer = SlowRenderer()
        prompt, _ = await Words().texts(order)
        other = renderer.begin(an_order(seed=99), prompt).checkpoint()
        workshop.store.write("videos/x/2.safetensors", other if damage == "of another order" else b"rubbish")
    await workshop.queue.release({video: claim.fence})
    async with running(workshop.worker().run()):
        ended = await workshop.ended(video)
    assert ended.result and ended.result.frames_sha256 == digest(undisturbed(order))


async def rows_changed(workshop: Workshop, statement: str) -> None:
    async with workshop.engine.begin() as connection:
        await connection.execute(text(statement))
