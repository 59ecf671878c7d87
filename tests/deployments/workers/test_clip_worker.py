"""A clip worker with the real queue: its orders are completed, failed, or released with a checkpoint."""

from __future__ import annotations

import asyncio
import hashlib
import io

import av
import pytest
from sqlalchemy import text

from gamegen.generation.drawing import CHUNKS_OF_A_PART
from gamegen.service.orders.records import Failure
from gamegen.service.orders.states import State
from gamegen.service.safety.settings import SafetySettings
from tests.picture_samples import moving_square, mp4_bytes, png
from tests.service.orders.orders import check_books, rows, tiny_order
from tests.workshop import (
    RefusesTheSecondPart,
    SlowRenderer,
    Workshop,
    digest,
    late,
    running,
    states_of,
    undisturbed,
)


async def test_a_batch_gives_the_frames_of_clips_drawn_alone(workshop: Workshop) -> None:
    """Also with a negative prompt and guidance, and at 30 frames a second."""
    orders = [
        tiny_order(seed=1, guidance_scale=2.0),
        tiny_order(seed=2, guidance_scale=2.0, negative_prompt="fog", prompt="a lake"),
        tiny_order(seed=3, guidance_scale=2.0, fps=30),
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
async def test_a_clip_starts_from_an_image_or_a_video(workshop: Workshop, key: str) -> None:
    file = png(64, 64) if key == "image_key" else mp4_bytes(moving_square(30, 32, 32))
    workshop.store.write("inputs/1", file)
    (video,) = await workshop.queued(tiny_order(**{key: "inputs/1"}))
    async with running(workshop.worker().run()):
        ended = await workshop.ended(video)
    assert ended.state is State.COMPLETED, ended.failure


async def test_an_order_that_fails_ends_alone(workshop: Workshop) -> None:
    """One input is not an image, one text is too long, one object is missing: the others are drawn."""
    workshop.store.write("inputs/2", b"no picture")
    videos = await workshop.queued(
        tiny_order(seed=1),
        tiny_order(seed=2, image_key="inputs/2"),
        tiny_order(seed=3, prompt="endless"),
        tiny_order(seed=4, image_key="inputs/gone"),
        tiny_order(seed=5),
    )
    async with running(workshop.worker().run()):
        ended = [await workshop.ended(video) for video in videos]
    states = [one.state for one in ended]
    assert states == [State.COMPLETED, State.FAILED, State.FAILED, State.FAILED, State.COMPLETED]
    assert [one.failure.code for one in ended if one.failure] == ["cannot_be_drawn"] * 3
    # A missing object is not final: the store may have it later.
    assert [one.attempts for one in ended] == [1, 1, 1, 3, 1]
    await check_books(workshop.engine)


async def test_a_step_that_fails_is_retried_up_to_the_limit(workshop: Workshop) -> None:
    renderer = SlowRenderer()
    renderer.breaks = lambda _: RuntimeError("out of memory")
    (video,) = await workshop.queued(tiny_order())
    async with running(workshop.worker(renderer=renderer).run()):
        ended = await workshop.ended(video)
        assert ended.state is State.FAILED and ended.attempts == 3
        assert ended.failure == Failure("internal_error", "out of memory")
        renderer.breaks = lambda _: None
        # Its slots are free again: a full batch fits.
        videos = await workshop.queued(*(tiny_order(seed=seed) for seed in range(8)))
        states = [(await workshop.ended(one)).state for one in videos]
    assert states == [State.COMPLETED] * 8


async def test_a_cancelled_order_stops_at_the_next_step(workshop: Workshop) -> None:
    renderer = SlowRenderer()
    renderer.free = 2
    cancelled, other = await workshop.queued(tiny_order(seed=1), tiny_order(seed=2))
    async with running(workshop.worker(renderer=renderer).run()):
        await workshop.reached(cancelled, lambda order: order.step == 2)
        await workshop.queue.cancel(cancelled, "ann")
        renderer.open = True
        ended = await workshop.ended(cancelled)
        assert ended.state is State.CANCELLED and ended.step == 3
        assert (await workshop.ended(other)).state is State.COMPLETED
    await check_books(workshop.engine)


async def test_a_lost_order_is_dropped_silently(workshop: Workshop) -> None:
    """Another worker has it by then; the first one reports nothing more about it and stops drawing it."""
    renderer = SlowRenderer()
    renderer.free = 2
    (video,) = await workshop.queued(tiny_order())
    async with running(workshop.worker("first", renderer).run()):
        await workshop.reached(video, lambda order: order.step == 2)
        await rows_changed(workshop, "update generations set lease_until = now() - interval '1 s'")
        assert await workshop.queue.reap() == 1
        (claim,) = await workshop.queue.claim_batch("second", 1, 60)
        renderer.open = True
        async with asyncio.timeout(30):
            while renderer.steps < 3:
                await asyncio.sleep(0.01)
        (other,) = await workshop.queued(tiny_order(seed=9))
        assert (await workshop.ended(other)).state is State.COMPLETED
        now = await workshop.queue.get(video, None)
        assert (now.state, now.fence) == (State.ASSIGNED, claim.fence)
    said = await rows(
        workshop.engine, "select max(fence) as fence from events where generation_id = :id", id=video
    )
    assert said[0].fence == claim.fence and renderer.steps == 3 + 7


async def test_a_clip_whose_frames_are_refused_is_blocked_and_not_stored(workshop: Workshop) -> None:
    bright = "tests.workshop:RefusesBright"
    safety = SafetySettings(prompt_checkers=("none",), frames_checkers=(bright,))
    (video,) = await workshop.queued(tiny_order())
    async with running(workshop.worker(safety=safety).run()):
        ended = await workshop.ended(video)
    assert ended.state is State.BLOCKED and ended.failure == Failure("frames_refused", "too bright")
    assert not [*workshop.store.keys(f"videos/{video}/")]
    audited = await rows(workshop.engine, "select subject, is_allowed from safety_audit")
    assert [tuple(row) for row in audited] == [("frames", False)]


async def test_every_five_seconds_of_a_clip_are_looked_at(workshop: Workshop) -> None:
    RefusesTheSecondPart.shown.clear()
    safety = SafetySettings(
        prompt_checkers=("none",), frames_checkers=("tests.workshop:RefusesTheSecondPart",)
    )
    (video,) = await workshop.queued(tiny_order(num_frames=250, num_steps=1))
    async with running(workshop.worker(safety=safety).run()):
        ended = await workshop.ended(video)
    assert ended.state is State.BLOCKED
    assert ended.failure == Failure("frames_refused", "too late in frame 7, counted from 5 s on")
    assert RefusesTheSecondPart.shown == [120, 120]
    audited = await rows(workshop.engine, "select subject, is_allowed from safety_audit")
    assert [tuple(row) for row in audited] == [("frames", False)]


async def test_orders_that_a_worker_was_about_to_get_are_released_too(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop.queue, "claim_batch", late(workshop.queue.claim_batch))
    (video,) = await workshop.queued(tiny_order())
    async with running(workshop.worker().run()):
        await workshop.reached(video, lambda order: order.state is not State.QUEUED)
    given = await workshop.queue.get(video, None)
    assert (given.state, given.attempts) == (State.QUEUED, 0)


async def test_a_worker_that_ends_releases_its_orders_with_a_checkpoint(workshop: Workshop) -> None:
    """Also when it is cancelled often; another worker repeats no step, and the frames are the same."""
    order = tiny_order()
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
async def test_a_checkpoint_that_cannot_be_read_restarts_the_clip(workshop: Workshop, damage: str) -> None:
    order = tiny_order()
    (video,) = await workshop.queued(order)
    (claim,) = await workshop.queue.claim_batch("dead", 1, 60)
    await workshop.queue.checkpointed(video, claim.fence, 2, "videos/x/2.safetensors", 9)
    if damage != "gone":
        renderer = SlowRenderer()
        other = renderer.begin(tiny_order(seed=99).clip_spec, states_of(order.prompt)).checkpoint().data
        workshop.store.write("videos/x/2.safetensors", other if damage == "of another order" else b"rubbish")
    await workshop.queue.release({video: claim.fence})
    async with running(workshop.worker().run()):
        ended = await workshop.ended(video)
    assert ended.result and ended.result.frames_sha256 == digest(undisturbed(order))


async def rows_changed(workshop: Workshop, statement: str) -> None:
    async with workshop.engine.begin() as connection:
        await connection.execute(text(statement))


async def test_a_long_clip_leaves_few_checkpoints_and_goes_on_from_all_of_them(workshop: Workshop) -> None:
    """After two deaths: what the second worker reads are the parts of the first and the second."""
    order = tiny_order(num_frames=238, num_steps=1)
    (video,) = await workshop.queued(order)
    for until in (25, 45):
        renderer = SlowRenderer()
        renderer.free = until
        worker = workshop.worker(f"until {until}", renderer, checkpoint_every_steps=2)
        async with running(worker.run()):
            await workshop.reached(video, lambda order, until=until: order.step >= until)
            kept = await rows(workshop.engine, "select key, step from checkpoints order by step")
            assert [*workshop.store.keys(f"videos/{video}/")] == sorted(row.key for row in kept)
            assert len(kept) <= kept[-1].step // CHUNKS_OF_A_PART + 1
            renderer.open = True
            renderer.breaks = lambda _: SystemExit()
        await workshop.reached(video, lambda order: order.state is State.QUEUED)
    async with running(workshop.worker().run()):
        ended = await workshop.ended(video)
    assert ended.state is State.COMPLETED and ended.result
    assert ended.result.frames_sha256 == digest(undisturbed(order))


async def test_after_a_new_start_the_checkpoints_of_the_new_start_count(workshop: Workshop) -> None:
    """Not one of an earlier claim after more steps, that could not be read."""
    order = tiny_order()
    (video,) = await workshop.queued(order)
    (claim,) = await workshop.queue.claim_batch("first", 1, 60)
    workshop.store.write("videos/x/6.safetensors", b"nonsense")
    await workshop.queue.checkpointed(video, claim.fence, 6, "videos/x/6.safetensors", 8)
    await workshop.queue.release({video: claim.fence})
    renderer = SlowRenderer()
    renderer.free = 3
    async with running(workshop.worker("second", renderer, checkpoint_every_steps=1).run()):
        await workshop.reached(video, lambda order: order.step == 3)
        renderer.open = True
        renderer.breaks = lambda _: SystemExit()
    await workshop.reached(video, lambda order: order.state is State.QUEUED)
    (again,) = await workshop.queue.claim_batch("third", 1, 60)
    assert again.checkpoint_step == 3
