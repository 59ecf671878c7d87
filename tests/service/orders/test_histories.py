"""Any history of calls, by several at the same time, keeps the books, the transitions and the leases."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.service.orders.order import Tier
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import AlreadyEndedError, Claim, Failure, Generation
from gamegen.service.orders.states import FINAL, LEASED, TRANSITIONS, State, TransitionError
from gamegen.service.orders.tiers import QueueSettings
from tests.service.orders.orders import check_books, new, order, result, rows

ACTORS, CALLS = 5, 80
FAILURE = Failure("broken", "it broke")


class Chance:
    """Actors that call whatever comes to their minds, and remember claims that may be out of date."""

    def __init__(self, queue: VideoQueue, seed: int) -> None:
        self.queue = queue
        self.random = Random(seed)
        self.orders = [order() for _ in range(30)]
        self.ids: list[str] = []
        self.claims: list[Claim] = []

    async def act(self, worker: str) -> None:
        calls: dict[Callable[[str], Awaitable[None]], int] = {
            self.submit: 4,
            self.encode: 3,
            self.claim: 4,
            self.draw: 6,
            self.end: 4,
            self.cancel: 2,
            self.leap: 1,
            self.lose: 1,
        }
        for call in self.random.choices(list(calls), list(calls.values()), k=CALLS):
            await call(worker)

    async def submit(self, worker: str) -> None:
        orders = [
            new(
                self.random.choice(("ann", "bob")),
                self.random.randint(0, 40),
                tier=self.random.choice(list(Tier)),
                priority=self.random.randint(0, 9),
                order=self.random.choice(self.orders),
                webhook_url=self.random.choice((None, "https://example.com")),
            )
            for _ in range(self.random.randint(1, 4))
        ]
        self.ids += [g.id for g in await self.queue.submit(orders) if isinstance(g, Generation)]

    async def encode(self, worker: str) -> None:
        claims = await self.queue.claim_pending(worker, 4, 60)
        if self.random.random() < 0.8:
            await self.queue.encoded(claims)
        else:
            self.claims += claims

    async def claim(self, worker: str) -> None:
        self.claims += await self.queue.claim_batch(worker, 3, 60)

    async def draw(self, worker: str) -> None:
        """Some of the way, or all of it."""
        claim = self.one_of_the_last()
        if claim is None:
            return
        held = {claim.id: claim.fence}
        state = (await self.queue.get(claim.id, None)).state
        for _ in range(self.random.randint(1, 6)):
            for following in TRANSITIONS[state] & LEASED:
                with contextlib.suppress(TransitionError):
                    await self.queue.advance(held, following)
                state = following
        await self.queue.progress({claim.id: (claim.fence, self.random.randint(0, 12), 1.0)})
        await self.queue.heartbeat(worker, held, 60)
        await self.queue.checkpointed(claim.id, claim.fence, self.random.randint(0, 10), "key", 1)

    async def end(self, worker: str) -> None:
        claim = self.one_of_the_last()
        if claim is None:
            return
        key, fence = claim.id, claim.fence
        await self.random.choice(
            (
                lambda: self.queue.complete(key, fence, result(key)),
                lambda: self.queue.complete(key, fence, result(key)),
                lambda: self.queue.fail(key, fence, FAILURE, is_final=True),
                lambda: self.queue.fail(key, fence, FAILURE, is_final=False),
                lambda: self.queue.block(key, fence, FAILURE),
                lambda: self.queue.cancelled(key, fence),
                lambda: self.queue.release({key: fence}),
            )
        )()

    async def cancel(self, worker: str) -> None:
        if self.ids:
            generation_id = self.random.choice(self.ids)
            account = (await self.queue.get(generation_id, None)).account
            with contextlib.suppress(AlreadyEndedError):
                await self.queue.cancel(generation_id, account)

    async def leap(self, worker: str) -> None:
        """A worker that is wrong about what comes next."""
        if (claim := self.one_of_the_last()) is not None:
            with contextlib.suppress(TransitionError):
                await self.queue.advance({claim.id: claim.fence}, self.random.choice(list(State)))

    async def lose(self, worker: str) -> None:
        if self.random.random() < 0.3:
            await self.queue.reap(datetime.now(UTC) + timedelta(seconds=90))

    def one_of_the_last(self) -> Claim | None:
        return self.random.choice(self.claims[-8:]) if self.claims else None


async def check_history(engine: AsyncEngine) -> None:
    """Every order went where it may go, with one worker at a time, and whoever wants to know of its end will."""
    history = defaultdict(list)
    for row in await rows(engine, "select * from events where kind = 'state' order by id"):
        history[row.generation_id].append(row)
    for seen in history.values():
        assert seen[0].state == State.PENDING
        for earlier, later in pairwise(seen):
            assert State(later.state) in TRANSITIONS[State(earlier.state)]
            # Each claim, and nothing else, has a new fence: nobody holds what another holds.
            assert later.fence - earlier.fence == ("claim" in later.data)
    now = await rows(engine, "select id, state, fence, finished_at, webhook_url from generations")
    for row in now:
        last = history[row.id][-1]
        assert (last.state, last.fence) == (row.state, row.fence)
        assert (row.finished_at is not None) == (State(row.state) in FINAL)
    owed = await rows(engine, "select generation_id as id from webhook_deliveries")
    assert {row.id for row in owed} == {row.id for row in now if row.finished_at and row.webhook_url}


@pytest.mark.parametrize("seed", range(3))
async def test_any_history_keeps_the_books_the_transitions_and_the_leases(
    seed, engine: AsyncEngine, caplog
) -> None:
    queue = VideoQueue(engine, QueueSettings(retry_s=0, max_attempts=2, new_account_credits=1, ageing_s=1))
    chance = Chance(queue, seed)
    await asyncio.gather(*(chance.act(f"w{number}") for number in range(ACTORS)))
    await check_books(engine)
    await check_history(engine)
    assert "deadlock" not in caplog.text
