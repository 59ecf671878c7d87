"""Queue of orders in PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.microbatch import MicroBatcher
from gamegen.service.database.retrying import RetryingDatabase
from gamegen.service.orders import claiming, credits, ending, leases, reading, workers
from gamegen.service.orders.events import events_after
from gamegen.service.orders.leases import Advance, AdvancedTo, AuditEntry
from gamegen.service.orders.records import (
    Claim,
    Completion,
    Event,
    Failure,
    Generation,
    LeaseStatus,
    NewGeneration,
    OrderRefusal,
    QueueStats,
    Result,
)
from gamegen.service.orders.states import State
from gamegen.service.orders.submitting import Submitter, accounts_of
from gamegen.service.orders.tiers import QueueSettings
from gamegen.service.safety.verdict import SafetyVerdict

_MAX_BATCH = 64
"""Orders in one statement of concurrent calls."""


class VideoQueue:
    """Takes orders, gives them to workers, and sees that each ends.

    The one way to the queue's tables: every method is idempotent, is retried while the database is unreachable, and
    then raises DatabaseAwayError. Concurrent calls of `advance`, `complete` and `audit` share one statement, since most
    of their cost is the round trip and the disk.

    Workers hold an order by its fence, a number that every claim increases. `held` is always {id: fence}; methods
    return the ids of the orders that the worker still holds, and it drops the others. An expired lease counts until
    `reap` has taken it.
    """

    def __init__(self, engine: AsyncEngine, settings: QueueSettings) -> None:
        self.settings = settings
        self._database = RetryingDatabase(engine, settings.patience_s)
        self._submitter = Submitter(settings)
        self._advances = MicroBatcher[Advance, AdvancedTo](self._advance_all, _MAX_BATCH, 1)
        self._completions = MicroBatcher[Completion, bool](self._complete_all, _MAX_BATCH, 1)
        self._audits = MicroBatcher[AuditEntry, bool](self._audit_all, _MAX_BATCH, 1)
        # Accounts that are known to exist.
        self._accounts: set[str] = set()

    async def _advance_all(self, moves: list[Advance]) -> AsyncIterator[list[AdvancedTo]]:
        yield await self._database.run(leases.advance, moves)

    async def _complete_all(self, completions: list[Completion]) -> AsyncIterator[list[bool]]:
        yield await self._database.run(ending.complete, completions)

    async def _audit_all(self, entries: list[AuditEntry]) -> AsyncIterator[list[bool]]:
        await self._database.run(leases.audit, entries)
        yield [True] * len(entries)

    # For customers.

    async def submit(self, new: Sequence[NewGeneration]) -> list[Generation | OrderRefusal]:
        """Submits orders in one transaction; returns the result of each, in the same order.

        Orders with equal request_id and body are one order. A clip that exists already completes at once, for free.
        """
        if unknown := set(accounts_of(new)) - self._accounts:
            await self._database.run(
                credits.open_accounts, sorted(unknown), self.settings.new_account_credits
            )
            self._accounts |= unknown
        return await self._database.run_whole(self._submitter.submit, new)

    async def cancel(self, generation_id: str, account: str) -> Generation:
        """Ends an order that waits, or asks its worker to end it; steps that were not done are refunded.

        Raises UnknownGenerationError, or AlreadyEndedError. A worker that is about to finish may finish first.
        """
        return await self._database.run(ending.cancel, generation_id, account)

    async def get(self, generation_id: str, account: str | None) -> Generation:
        """An order of an account, None for anyone's; raises UnknownGenerationError."""
        return await self._database.run(reading.get, generation_id, account)

    async def list(
        self,
        account: str,
        states: Collection[State] = (),
        limit: int = 20,
        offset: int = 0,
        after: str | None = None,
        is_oldest_first: bool = False,
    ) -> tuple[Sequence[Generation], int]:
        """A page of an account's orders, the newest first, and the number of all of them.

        `states` are all if empty; `after` is the id that the page follows. Raises UnknownGenerationError.
        """
        return await self._database.run(
            reading.list_of,
            account,
            states,
            limit=limit,
            offset=offset,
            after=after,
            is_oldest_first=is_oldest_first,
        )

    async def keep(self, generation_id: str, account: str, is_kept: bool) -> Generation:
        """Sets whether a clip is exempt from retention; raises UnknownGenerationError."""
        return await self._database.run(reading.keep, generation_id, account, is_kept)

    async def expire(self, generation_id: str, account: str) -> Generation:
        """Expires a finished clip now; raises UnknownGenerationError.

        Its files are unavailable at once, and removed by retention unless another order shares them.
        """
        return await self._database.run(reading.expire, generation_id, account)

    async def events_after(self, generation_id: str, event_id: int = 0, limit: int = 1000) -> Sequence[Event]:
        """Up to `limit` events of an order after an event, the oldest first."""
        return await self._database.run(events_after, generation_id, event_id, limit)

    # For workers.

    async def claim_pending(self, worker: str, limit: int, lease_s: float) -> Sequence[Claim]:
        """Claims up to `limit` orders whose texts are to be checked and encoded."""
        return await self._database.run(
            claiming.claim_pending, worker=worker, limit=limit, lease_s=lease_s, claim=secrets.token_hex(8)
        )

    async def encoded(self, claims: Collection[Claim]) -> frozenset[str]:
        """Queues orders for generators and ends their leases; returns the ids of those that were still held."""
        return await self._database.run(leases.encoded, {claim.id: claim.fence for claim in claims})

    async def claim_batch(self, worker: str, limit: int, lease_s: float) -> Sequence[Claim]:
        """Claims up to `limit` orders of one batch_key, of the tier with the least virtual time."""
        return await self._database.run(
            claiming.claim_batch,
            self.settings,
            worker=worker,
            limit=limit,
            lease_s=lease_s,
            claim=secrets.token_hex(8),
        )

    async def heartbeat(self, worker: str, held: Mapping[str, int], lease_s: float) -> LeaseStatus:
        """Extends the leases to `lease_s` from now."""
        return await self._database.run(leases.heartbeat, worker, held, lease_s)

    async def advance(self, held: Mapping[str, int], state: State) -> frozenset[str]:
        """Moves orders to the next stage of their work; raises TransitionError for a held order that cannot move."""
        leases.check_advance(state)
        moves = [Advance(generation_id, fence, state) for generation_id, fence in held.items()]
        states = await asyncio.gather(*(self._advances.submit(move) for move in moves))
        return leases.advanced(moves, states)

    async def progress(self, steps: Mapping[str, tuple[int, int, float]]) -> LeaseStatus:
        """Records {id: (fence, steps done, milliseconds a step)}."""
        return await self._database.run(leases.progress, steps)

    async def checkpointed(
        self,
        generation_id: str,
        fence: int,
        step: int,
        key: str,
        size_bytes: int,
        superseded: int | None = None,
    ) -> bool:
        """Records a checkpoint, from which the next claim of the order resumes; False if it is no longer held.

        It takes the place of the one after `superseded` steps, whose object may be removed then.
        """
        return await self._database.run(
            leases.checkpointed,
            generation_id,
            fence,
            step=step,
            key=key,
            size_bytes=size_bytes,
            superseded=superseded,
        )

    async def audit(self, generation_id: str, verdicts: Sequence[SafetyVerdict]) -> None:
        """Records the verdicts of safety checks."""
        if verdicts:
            await self._audits.submit(AuditEntry(generation_id, datetime.now(UTC), verdicts))

    async def complete(self, generation_id: str, fence: int, result: Result) -> bool:
        """Ends an order with its files; False if it is no longer held."""
        return await self._completions.submit(Completion(generation_id, fence, result))

    async def fail(self, generation_id: str, fence: int, failure: Failure, is_final: bool) -> bool:
        """Ends an order as failed if that `is_final`, else puts it back into the queue to be retried later."""
        return await self._database.run(
            ending.fail, self.settings, generation_id, fence, failure=failure, is_final=is_final
        )

    async def block(self, generation_id: str, fence: int, failure: Failure) -> bool:
        """Ends an order that the safety checks refuse; steps that were done are paid for."""
        return await self._database.run(ending.block, generation_id, fence, failure)

    async def cancelled(self, generation_id: str, fence: int) -> bool:
        """Ends an order that its worker has stopped on request."""
        return await self._database.run(ending.cancelled, generation_id, fence)

    async def release(self, held: Mapping[str, int]) -> frozenset[str]:
        """Puts orders back into the queue at once, without counting an attempt."""
        return await self._database.run(ending.release, self.settings, held)

    # For maintenance.

    async def reap(self, now: datetime | None = None) -> int:
        """Puts orders whose leases have expired back into the queue, and wakes workers if there is work.

        Orders fail after `max_attempts`. Returns the number of expired leases. `now` is the database's time by default.
        """
        return await self._database.run(ending.reap, self.settings, now)

    async def stats(self) -> QueueStats:
        """Numbers of unfinished orders, by tier."""
        return await self._database.run(reading.stats)

    async def seen(self, worker: str, kind: str, node: str) -> None:
        """Records that a worker is alive."""
        await self._database.run(workers.seen, worker, kind, node)

    async def gone(self, worker: str) -> None:
        """Forgets a worker that has ended."""
        await self._database.run(workers.gone, worker)

    async def workers(self, seen_within_s: float) -> Sequence[workers.Worker]:
        """Workers seen within the last `seen_within_s` seconds."""
        return await self._database.run(workers.alive, seen_within_s)

    async def balance(self, account: str) -> int:
        """Millicredits that an account can spend."""
        return await self._database.run(credits.balance, account, self.settings.new_account_credits)

    async def grant(self, account: str, millicredits: int) -> int:
        """Adds millicredits to an account; returns its balance."""
        return await self._database.run(
            credits.grant,
            account,
            millicredits,
            new_account_credits=self.settings.new_account_credits,
            reference=secrets.token_hex(8),
        )
