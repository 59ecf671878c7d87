"""An order's way through the queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from gamegen.service.orders.order import Tier
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import (
    AlreadyEndedError,
    Claim,
    Failure,
    Generation,
    LeaseStatus,
    OrderRefusal,
    UnknownGenerationError,
)
from gamegen.service.orders.states import State, TransitionError
from gamegen.service.orders.tiers import QueueSettings
from gamegen.service.safety.verdict import SafetyVerdict
from tests.service.orders.orders import check_books, new, order, result, rows

WORK = (
    State.GENERATING,
    State.VAE_DECODING,
    State.SAFETY_CHECKING,
    State.TRANSCODING,
    State.UPLOADING,
)


async def queued(queue: VideoQueue, count: int = 1, **changes) -> list[str]:
    """Ids of new orders that wait for a generator."""
    taken = await queue.submit([new(**changes) for _ in range(count)])
    await queue.encoded(await queue.claim_pending("encoder", 1000, 60))
    return [generation.id for generation in taken if isinstance(generation, Generation)]


async def claimed(queue: VideoQueue, worker: str = "w", **changes) -> Claim:
    """A new order that a generator has."""
    await queued(queue, 1, **changes)
    return (await queue.claim_batch(worker, 1, 60))[0]


def after(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def states(queue: VideoQueue, generation_id: str) -> list[State]:
    return [event.state for event in await queue.events_after(generation_id) if event.kind == "state"]


async def test_an_order_passes_every_state_and_is_paid_for_once(queue, engine) -> None:
    (taken,) = await queue.submit([new(millicredits=100)])
    assert taken.state is State.PENDING
    (pending,) = await queue.claim_pending("encoder", 8, 60)
    assert pending.order == taken.order
    assert await queue.encoded([pending]) == {taken.id}
    (claim,) = await queue.claim_batch("w", 8, 60)
    held = {claim.id: claim.fence}
    for state in WORK:
        assert await queue.advance(held, state) == {claim.id}
        if state is State.GENERATING:
            await queue.progress({claim.id: (claim.fence, 5, 20.0)})
            now = await queue.get(claim.id, "ann")
            assert (now.step, now.remaining_s) == (5, 0.1)
        if state is State.VAE_DECODING:
            assert (await queue.get(claim.id, "ann")).step == claim.num_steps
    assert await queue.complete(claim.id, claim.fence, result(claim.id))
    done = await queue.get(claim.id, "ann")
    assert (done.state, done.result, done.millicredits) == (State.COMPLETED, result(claim.id), 100)
    assert done.finished_at is not None and done.progress == 1
    assert await states(queue, claim.id) == [
        State.PENDING,
        State.ENCODING,
        State.QUEUED,
        State.ASSIGNED,
        *WORK,
        State.COMPLETED,
    ]
    assert await queue.balance("ann") == 10_000_000 - 100
    await check_books(engine)


async def test_a_stage_cannot_be_left_out(queue) -> None:
    claim = await claimed(queue)
    with pytest.raises(TransitionError, match="ASSIGNED cannot become UPLOADING"):
        await queue.advance({claim.id: claim.fence}, State.UPLOADING)
    with pytest.raises(TransitionError, match="COMPLETED"):
        await queue.advance({claim.id: claim.fence}, State.COMPLETED)
    assert not await queue.complete(claim.id, claim.fence, result(claim.id))
    assert (await queue.get(claim.id, None)).state is State.ASSIGNED


async def test_eight_claimers_never_hold_one_order_twice(queue, engine) -> None:
    ids = await queued(queue, 100)

    async def work(worker: str) -> list[str]:
        mine: list[str] = []
        while claims := await queue.claim_batch(worker, 8, 60):
            mine += [claim.id for claim in claims]
            # Half of them are given back once.
            await queue.release({c.id: c.fence for c in claims if c.fence == 2 and int(c.id[6:]) % 2})
        return mine

    await asyncio.gather(*(work(f"w{i}") for i in range(8)))
    assert not await queue.claim_batch("late", 8, 60)
    events = await rows(engine, "select generation_id, state from events order by id")
    history: dict[str, list[str]] = {generation_id: [] for generation_id in ids}
    for event in events:
        history[event.generation_id].append(event.state)
    for generation_id, seen in history.items():
        again = ["QUEUED", "ASSIGNED"] if int(generation_id[6:]) % 2 else []
        assert seen == ["PENDING", "ENCODING", "QUEUED", "ASSIGNED", *again], generation_id


async def test_a_batch_is_of_one_kind(queue) -> None:
    await queued(queue, 3)
    await queued(queue, 2, order=order(width=320))
    sizes = []
    while claims := await queue.claim_batch("w", 8, 60):
        sizes.append({claim.order.batch_key for claim in claims})
    assert [len(keys) for keys in sizes] == [1, 1]


async def test_a_lost_lease_lets_the_old_worker_write_nothing(queue, engine) -> None:
    claim = await claimed(queue, "old")
    await queue.advance({claim.id: claim.fence}, State.GENERATING)
    assert await queue.checkpointed(claim.id, claim.fence, 4, "videos/x/checkpoints/4", 10)
    assert await queue.reap(after(30)) == 0
    assert await queue.reap(after(90)) == 1
    for claimed_again in (False, True):
        if claimed_again:
            (second,) = await queue.claim_batch("new", 1, 60)
            assert second.fence > claim.fence
            assert (second.checkpoint_step, second.checkpoint_key) == (4, "videos/x/checkpoints/4")
            assert second.attempts == 2
        held = {claim.id: claim.fence}
        assert await queue.heartbeat("old", held, 60) == LeaseStatus(frozenset(held), frozenset())
        assert await queue.advance(held, State.VAE_DECODING) == frozenset()
        assert (await queue.progress({claim.id: (claim.fence, 9, 1.0)})).lost == set(held)
        assert not await queue.checkpointed(claim.id, claim.fence, 9, "other", 10)
        assert not await queue.complete(claim.id, claim.fence, result(claim.id))
        assert not await queue.fail(claim.id, claim.fence, Failure("a", "b"), is_final=True)
        assert not await queue.fail(claim.id, claim.fence, Failure("a", "b"), is_final=False)
        assert not await queue.block(claim.id, claim.fence, Failure("a", "b"))
        assert not await queue.cancelled(claim.id, claim.fence)
        assert not await queue.release(held)
    now = await queue.get(claim.id, None)
    assert (now.state, now.step, now.fence) == (State.ASSIGNED, 4, second.fence)
    assert len(await rows(engine, "select * from checkpoints")) == 1


async def test_a_heartbeat_keeps_a_lease_and_hears_of_a_cancellation(queue, engine) -> None:
    claim = await claimed(queue, millicredits=100)
    held = {claim.id: claim.fence}
    assert await queue.heartbeat("w", held, 600) == LeaseStatus(frozenset(), frozenset())
    assert await queue.reap(after(300)) == 0
    await queue.advance(held, State.GENERATING)
    await queue.progress({claim.id: (claim.fence, 3, 10.0)})
    assert (await queue.cancel(claim.id, "ann")).cancel_requested
    assert (await queue.heartbeat("w", held, 60)).cancelled == {claim.id}
    assert (await queue.progress({claim.id: (claim.fence, 4, 10.0)})).cancelled == {claim.id}
    assert await queue.cancelled(claim.id, claim.fence)
    ended = await queue.get(claim.id, "ann")
    # Four of ten steps were done.
    assert (ended.state, ended.millicredits) == (State.CANCELLED, 40)
    with pytest.raises(AlreadyEndedError, match="CANCELLED"):
        await queue.cancel(claim.id, "ann")
    await check_books(engine)


@pytest.mark.parametrize("how", ["pending", "queued", "encoding", "reaped", "released", "failed"])
async def test_whoever_cancels_is_not_drawn(how, queue, engine) -> None:
    (taken,) = await queue.submit([new(millicredits=100)])
    if how not in ("pending", "encoding"):
        await queue.encoded(await queue.claim_pending("encoder", 1, 60))
    if how == "encoding":
        (claim,) = await queue.claim_pending("encoder", 1, 60)
    elif how in ("reaped", "released", "failed"):
        (claim,) = await queue.claim_batch("w", 1, 60)
    await queue.cancel(taken.id, "ann")
    if how == "encoding":
        await queue.cancelled(taken.id, claim.fence)
    elif how == "reaped":
        await queue.reap(after(90))
    elif how == "released":
        await queue.release({taken.id: claim.fence})
    elif how == "failed":
        await queue.fail(taken.id, claim.fence, Failure("no_memory", "none"), is_final=False)
    ended = await queue.get(taken.id, "ann")
    assert (ended.state, ended.millicredits) == (State.CANCELLED, 0)
    assert not await queue.claim_batch("w", 8, 60) and not await queue.claim_pending("w", 8, 60)
    await check_books(engine)


async def test_a_failure_is_tried_again_and_then_paid_back(queue, engine) -> None:
    (generation_id,) = await queued(queue, 1, webhook_url="https://example.com/hook")
    for attempt in (1, 2, 3):
        (claim,) = await queue.claim_batch("w", 1, 60)
        assert claim.attempts == attempt
        assert await queue.fail(claim.id, claim.fence, Failure("no_memory", "too big"), is_final=False)
    ended = await queue.get(generation_id, "ann")
    assert (ended.state, ended.failure) == (State.FAILED, Failure("no_memory", "too big"))
    assert await queue.balance("ann") == 10_000_000
    (delivery,) = await rows(engine, "select * from webhook_deliveries")
    assert (delivery.event, delivery.url) == ("video.failed", "https://example.com/hook")
    await check_books(engine)


async def test_a_failed_order_waits_before_it_is_tried_again(engine) -> None:
    queue = VideoQueue(engine, QueueSettings(retry_s=40, max_retry_s=60))
    claim = await claimed(queue)
    await queue.fail(claim.id, claim.fence, Failure("busy", "later"), is_final=False)
    assert not await queue.claim_batch("w", 1, 60)
    ((wait_s,),) = await rows(engine, "select extract(epoch from available_at - now()) from generations")
    assert 30 < wait_s <= 40


async def test_whoever_loses_every_worker_fails(queue, engine) -> None:
    for claim_next, state in ((queue.claim_pending, State.PENDING), (queue.claim_batch, State.QUEUED)):
        (taken,) = await queue.submit([new()])
        if state is State.QUEUED:
            await queue.encoded(await queue.claim_pending("encoder", 1, 60))
        for attempt in (1, 2, 3):
            assert (await queue.get(taken.id, None)).state is state
            (claim,) = await claim_next(f"w{attempt}", 1, 60)
            await queue.reap(after(90))
        ended = await queue.get(claim.id, None)
        assert ended.state is State.FAILED and ended.failure.code == "worker_lost"
    await check_books(engine)


async def test_a_worker_that_drains_gives_back_without_an_attempt(queue) -> None:
    (generation_id,) = await queued(queue)
    for _ in range(5):
        (claim,) = await queue.claim_batch("w", 1, 60)
        assert claim.attempts == 1
        assert await queue.release({claim.id: claim.fence}) == {generation_id}
    (taken,) = await queue.submit([new()])
    (claim,) = await queue.claim_pending("encoder", 1, 60)
    await queue.release({claim.id: claim.fence})
    assert (await queue.get(taken.id, None)).state is State.PENDING


async def test_what_may_not_be_shown_is_blocked_and_written_down(queue, engine) -> None:
    (taken,) = await queue.submit([new(millicredits=100)])
    (claim,) = await queue.claim_pending("encoder", 1, 60)
    verdict = SafetyVerdict("prompt", "profanity", 0.9, 0.5, False, "rude")
    await queue.audit(taken.id, [verdict, replace(verdict, subject="negative_prompt")])
    assert await queue.block(claim.id, claim.fence, Failure("prompt_blocked", "the prompt is rude"))
    ended = await queue.get(taken.id, "ann")
    assert (ended.state, ended.millicredits) == (State.BLOCKED, 0)
    audit = await rows(engine, "select subject, is_allowed from safety_audit order by id")
    assert [tuple(row) for row in audit] == [("prompt", False), ("negative_prompt", False)]
    await check_books(engine)


async def test_the_same_request_is_the_same_order(queue, engine) -> None:
    first = new(request_id="r1", body_hash="a")
    again = [replace(first, id=f"other{i}") for i in range(8)]
    answers = await asyncio.gather(*(queue.submit([item]) for item in [first, *again]))
    assert len({answer.id for (answer,) in answers}) == 1
    (other,) = await queue.submit([replace(first, id="different", body_hash="b")])
    assert isinstance(other, OrderRefusal) and other.code == "request_reused"
    (stranger,) = await queue.submit([replace(first, id="stranger", account="bob", body_hash="b")])
    assert stranger.account == "bob"
    both = await queue.submit([new(id="x", request_id="r2"), new(id="y", request_id="r2")])
    assert [answer.id for answer in both] == ["x", "x"]
    await check_books(engine)


async def test_a_submission_that_is_repeated_is_made_once(queue, engine) -> None:
    group = [new() for _ in range(5)]
    assert [g.id for g in await queue.submit(group)] == [g.id for g in await queue.submit(group)]
    assert await queue.balance("ann") == 10_000_000 - 500
    await check_books(engine)


async def test_what_has_been_drawn_is_given_at_once(queue, engine) -> None:
    wanted = order()
    claim = await claimed(queue, order=wanted)
    for state in WORK:
        await queue.advance({claim.id: claim.fence}, state)
    await queue.complete(claim.id, claim.fence, result(claim.id))
    (again,) = await queue.submit([new("bob", order=wanted, webhook_url="https://example.com")])
    assert (again.state, again.result, again.millicredits) == (State.COMPLETED, result(claim.id), 0)
    assert await states(queue, again.id) == [State.PENDING, State.COMPLETED]
    assert len(await rows(engine, "select * from webhook_deliveries")) == 1
    async with engine.begin() as connection:
        await connection.exec_driver_sql("update generations set expired_at = now()")
    (later,) = await queue.submit([new("bob", order=wanted)])
    assert later.state is State.PENDING
    await check_books(engine)


async def test_orders_beyond_the_limits_are_refused(engine) -> None:
    queue = VideoQueue(engine, QueueSettings(new_account_credits=1, max_waiting_of_account=3, max_waiting=4))
    answers = await queue.submit([new("ann", 400) for _ in range(3)])
    assert [getattr(a, "code", None) for a in answers] == [None, None, "insufficient_credits"]
    assert "0.4 credits and 0.2 are left" in answers[2].message
    answers = await queue.submit([new("bob", 1) for _ in range(4)])
    assert [getattr(a, "code", None) for a in answers] == [None, None, "queue_full", "queue_full"]
    assert await queue.grant("ann", 5000) == 5200
    other = VideoQueue(engine, QueueSettings(max_waiting_of_account=3))
    answers = await other.submit([new("ann") for _ in range(2)])
    assert [getattr(a, "code", None) for a in answers] == [None, "account_full"]
    await check_books(engine)


@pytest.mark.parametrize(
    "changes",
    [
        {"priority": 10},
        {"num_steps": 0},
        {"millicredits": -1},
        {"order": order(prompt="a\0b")},
        {"order": order(negative_prompt="\ud800")},
        {"request_id": "\0"},
    ],
)
def test_what_cannot_be_kept_is_refused_before_it_is_submitted(changes) -> None:
    with pytest.raises(ValueError, match=r"must be|characters"):
        new(**changes)


async def test_any_other_text_is_kept(queue) -> None:
    text = "\x01\uffff \N{SNOWMAN}\N{PILE OF POO} '\"\\ %s :x $1"
    (taken,) = await queue.submit([new(order=order(prompt=text), request_id=text)])
    (claim,) = await queue.claim_pending("w", 1, 60)
    assert claim.order.prompt == taken.request_id == text


async def test_orders_are_listed_for_whom_they_are(queue) -> None:
    ids = [(await queue.submit([new()]))[0].id for _ in range(3)]
    await queue.submit([new("bob")])
    await queue.cancel(ids[0], "ann")
    listed, total = await queue.list("ann", limit=2)
    assert ([g.id for g in listed], total) == ([ids[2], ids[1]], 3)
    listed, total = await queue.list("ann", {State.CANCELLED})
    assert ([g.id for g in listed], total) == ([ids[0]], 1)
    for call in (queue.get, queue.cancel):
        with pytest.raises(UnknownGenerationError):
            await call(ids[1], "bob")
    assert (await queue.keep(ids[1], "ann", True)).is_kept


async def test_the_queue_says_how_full_it_is(queue) -> None:
    await queued(queue, 2, tier=Tier.CINEMA)
    await queued(queue, 1)
    await queue.claim_batch("w", 1, 60)
    await queue.submit([new()])
    stats = await queue.stats()
    assert (stats.pending, stats.queued, stats.leased) == (1, 2, 1)
    assert stats.oldest_s >= 0
    assert stats.tiers[Tier.CINEMA].queued + stats.tiers[Tier.CINEMA].leased == 2


async def test_workers_are_known_while_they_are_heard_of(queue, engine) -> None:
    await queue.seen("w0", "generator", "node-a")
    async with engine.begin() as connection:
        await connection.execute(text("update workers set seen_at = now() - interval '25 hours'"))
    await queue.seen("w1", "generator", "node-a")
    await queue.seen("w2", "webhooks", "node-b")
    # One that was killed never says that it is gone.
    assert [row.id for row in await rows(engine, "select id from workers order by id")] == ["w1", "w2"]
    await queue.seen("w1", "generator", "node-a")
    await queue.gone("w2")
    (worker,) = await queue.workers(60)
    assert (worker.id, worker.kind, worker.node) == ("w1", "generator", "node-a")
    assert Counter(w.kind for w in await queue.workers(60)) == {"generator": 1}
