"""What was done though nobody heard of it is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.service.orders.records import Failure, Generation
from gamegen.service.orders.states import State
from gamegen.service.safety.verdict import SafetyVerdict
from tests.service.orders.orders import check_books, new, result, rows
from tests.service.orders.test_queue import WORK, claimed, queued


@pytest.fixture
def lose(engine: AsyncEngine) -> Iterator[Callable[[str], None]]:
    """`lose("update")`: the answer to the next statement with this word is lost once it is carried out."""
    words: list[str] = []

    def after(connection, cursor, statement, *rest) -> None:
        if words and words[0] in statement:
            words.clear()
            raise psycopg.OperationalError("the connection broke")

    event.listen(engine.sync_engine, "after_cursor_execute", after)
    yield words.append
    assert not words, f"no statement had {words}"


async def test_a_claim_is_made_once(queue, lose) -> None:
    await queue.submit([new() for _ in range(10)])
    lose("changed")
    pending = await queue.claim_pending("w", 4, 60)
    assert len(pending) == 4 and {claim.fence for claim in pending} == {1}
    assert (await queue.stats()).leased == 4
    await queue.encoded(pending)
    lose("mates")
    assert len(await queue.claim_batch("w", 3, 60)) == 3
    assert (await queue.stats()).leased == 3


async def test_what_a_worker_says_counts_once(queue, engine, lose) -> None:
    (taken,) = await queue.submit([new(millicredits=100, webhook_url="https://example.com")])
    pending = await queue.claim_pending("w", 1, 60)
    lose("changed")
    assert await queue.encoded(pending) == {taken.id}
    (claim,) = await queue.claim_batch("w", 1, 60)
    for state in WORK:
        lose("changed")
        assert await queue.advance({claim.id: claim.fence}, state) == {claim.id}
        lose("changed")
        assert (await queue.progress({claim.id: (claim.fence, 2, 1.0)})).lost == frozenset()
    lose("safety_audit")
    await queue.audit(claim.id, [SafetyVerdict("frames", "none", 0.0, 1.0, True)])
    assert len(await rows(engine, "select * from safety_audit")) == 1
    lose("checkpoints")
    assert await queue.checkpointed(claim.id, claim.fence, 4, "key", 1)
    lose("changed")
    assert await queue.complete(claim.id, claim.fence, result(claim.id))
    events = await rows(engine, "select state from events where kind = 'state' order by id")
    assert [row.state for row in events] == ["PENDING", "ENCODING", "QUEUED", "ASSIGNED", *WORK, "COMPLETED"]
    assert len(await rows(engine, "select * from webhook_deliveries")) == 1
    await check_books(engine)


async def test_an_end_comes_once(queue, engine, lose) -> None:
    for end in ("fail", "again", "block", "cancelled", "cancel"):
        if end == "block":
            await queue.submit([new()])
            (claim,) = await queue.claim_pending("w", 1, 60)
        else:
            claim = await claimed(queue)
        if end == "cancel":
            await queue.release({claim.id: claim.fence})
        lose("changed")
        failure = Failure("broken", "it broke")
        if end in ("fail", "again"):
            assert await queue.fail(claim.id, claim.fence, failure, is_final=end == "fail")
        elif end == "block":
            assert await queue.block(claim.id, claim.fence, failure)
        elif end == "cancelled":
            assert await queue.cancelled(claim.id, claim.fence)
        else:
            assert (await queue.cancel(claim.id, "ann")).state is State.CANCELLED
        if end == "again":
            (claim,) = await queue.claim_batch("w", 1, 60)
            assert claim.attempts == 2
            await queue.fail(claim.id, claim.fence, failure, is_final=True)
    assert await queue.balance("ann") == 10_000_000
    await check_books(engine)


async def test_submissions_and_grants_are_made_once(queue, engine, lose) -> None:
    lose("insert into generations")
    (taken,) = await queue.submit([new(millicredits=100)])
    assert isinstance(taken, Generation)
    lose("insert into credits_ledger")
    assert await queue.grant("ann", 5) == 10_000_005 - 100
    lose("update accounts")
    assert await queue.grant("bob", 5) == 10_000_005
    await queued(queue)
    await check_books(engine)
