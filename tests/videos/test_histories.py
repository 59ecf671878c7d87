"""Any history of calls keeps the books, the transitions and the leases."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from gamegen.database.connection import connect
from gamegen.videos.order import Tier
from gamegen.videos.queue import VideoQueue
from gamegen.videos.records import AlreadyEndedError, Claim, Failure, Verdict
from gamegen.videos.states import FINAL, LEASED, TRANSITIONS, State, TransitionError
from gamegen.videos.tiers import QueueSettings
from tests.videos.orders import check_books, new, order, result, rows

FAILURE = Failure("broken", "it broke")
ENDS = ("complete", "fail", "retry", "block", "cancelled", "release", "lose")
ORDERS = [order() for _ in range(3)]


class Histories(RuleBasedStateMachine):
    """A queue, its claimers, and everybody's memory of what they hold, which may be out of date."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.engine = connect(self.url)
        self.queue = VideoQueue(
            self.engine, QueueSettings(retry_s=0, max_attempts=2, new_account_credits=1, ageing_s=1)
        )
        self.ids: list[str] = []
        self.claims: list[Claim] = []
        self.run(self._empty())

    def run(self, work: Awaitable):
        async def wait():
            return await work

        return self.runner.run(wait())

    async def _empty(self) -> None:
        async with self.engine.begin() as connection:
            await connection.exec_driver_sql("truncate generations, accounts, tiers, workers cascade")

    def teardown(self) -> None:
        self.run(check_books(self.engine))
        self.run(self._check_history())
        self.run(self.engine.dispose())
        self.runner.close()

    @rule(
        tier=st.sampled_from(Tier),
        priority=st.integers(0, 9),
        millicredits=st.integers(0, 400),
        wanted=st.sampled_from(ORDERS),
        hook=st.booleans(),
    )
    def submit(self, tier: Tier, priority: int, millicredits: int, wanted, hook: bool) -> None:
        order = new(
            millicredits=millicredits,
            tier=tier,
            priority=priority,
            order=wanted,
            webhook_url="https://example.com" if hook else None,
        )
        (answer,) = self.run(self.queue.submit([order]))
        if answer == self.run(self.queue.submit([order]))[0] and hasattr(answer, "id"):
            self.ids.append(order.id)

    @rule(limit=st.integers(1, 3), is_pending=st.booleans())
    def claim(self, limit: int, is_pending: bool) -> None:
        claim_next: Callable = self.queue.claim_pending if is_pending else self.queue.claim_batch
        self.claims += self.run(claim_next(f"w{len(self.claims)}", limit, 60))

    @rule(data=st.data(), steps=st.integers(0, 12), stages=st.integers(1, 6))
    def work(self, data: st.DataObject, steps: int, stages: int) -> None:
        if not self.claims:
            return
        claim = data.draw(st.sampled_from(self.claims))
        state = self.run(self.queue.get(claim.id, None)).state
        if state is State.ENCODING:
            self.run(self.queue.encoded([claim]))
            return
        for _ in range(stages):
            for following in TRANSITIONS[state] & LEASED:
                self.run(self.queue.advance({claim.id: claim.fence}, following))
                state = following
        self.run(self.queue.progress({claim.id: (claim.fence, steps, 1.0)}))
        self.run(self.queue.checkpointed(claim.id, claim.fence, min(steps, 10), "key", 1))
        self.run(self.queue.audit(claim.id, [Verdict("frames", "none", 0, 1, True)]))

    @rule(data=st.data(), how=st.sampled_from(ENDS))
    def end(self, data: st.DataObject, how: str) -> None:
        if not self.claims:
            return
        claim = data.draw(st.sampled_from(self.claims))
        calls: dict[str, Callable[[], Awaitable]] = {
            "complete": lambda: self.queue.complete(claim.id, claim.fence, result(claim.id)),
            "fail": lambda: self.queue.fail(claim.id, claim.fence, FAILURE, True),
            "retry": lambda: self.queue.fail(claim.id, claim.fence, FAILURE, False),
            "block": lambda: self.queue.block(claim.id, claim.fence, FAILURE),
            "cancelled": lambda: self.queue.cancelled(claim.id, claim.fence),
            "release": lambda: self.queue.release({claim.id: claim.fence}),
            "lose": lambda: self.queue.reap(datetime.now(UTC) + timedelta(seconds=90)),
        }
        self.run(calls[how]())
        self.run(check_books(self.engine))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.ids:
            return
        try:
            self.run(self.queue.cancel(data.draw(st.sampled_from(self.ids)), "ann"))
        except AlreadyEndedError as error:
            assert error.state in FINAL

    @rule(data=st.data(), state=st.sampled_from(State))
    def leap(self, data: st.DataObject, state: State) -> None:
        """A worker that is wrong about what comes next."""
        if self.claims:
            claim = data.draw(st.sampled_from(self.claims))
            with contextlib.suppress(TransitionError):
                self.run(self.queue.advance({claim.id: claim.fence}, state))

    async def _check_history(self) -> None:
        history: dict[str, list] = {}
        for row in await rows(self.engine, "select * from events where kind = 'state' order by id"):
            history.setdefault(row.generation_id, []).append(row)
        for seen in history.values():
            assert seen[0].state == State.PENDING
            for earlier, later in pairwise(seen):
                assert State(later.state) in TRANSITIONS[State(earlier.state)]
                assert later.fence - earlier.fence == ("claim" in later.data)
        final = await rows(self.engine, "select id from generations where finished_at is not null")
        owed = await rows(self.engine, "select generation_id as id from webhook_deliveries")
        hooked = await rows(self.engine, "select id from generations where webhook_url is not null")
        assert {row.id for row in owed} == {row.id for row in final} & {row.id for row in hooked}


@pytest.mark.timeout(120)
def test_any_history_keeps_the_books_the_transitions_and_the_leases(database_url) -> None:
    machine = type("Machine", (Histories,), {"url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=10,
            database=None,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
