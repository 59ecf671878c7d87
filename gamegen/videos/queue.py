"""The queue of orders: the rows of PostgreSQL are the queue."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.database.patience import PatientDatabase
from gamegen.videos import claiming, credits, ending, events, leases, reading, workers
from gamegen.videos.leases import Audited, Entry
from gamegen.videos.records import (
    Beat,
    Claim,
    Completion,
    Event,
    Failure,
    Generation,
    NewGeneration,
    QueueStats,
    Refusal,
    Result,
    Verdict,
)
from gamegen.videos.states import State
from gamegen.videos.submitting import Submitting, accounts_of
from gamegen.videos.tiers import QueueSettings
from gamegen.videos.together import Together


class VideoQueue:
    """Takes orders, gives them to workers, and sees that each ends.

    Everything waits for a database that is away and is tried again when it is back: doing it twice is the same as doing
    it once. All of it raises DatabaseAwayError when that took too long.

    Workers hold an order by its fence, a number which every claim makes larger. `held` is always {id: fence}; what
    comes back are the ids of those that are still the caller's. An order that is no longer its own a worker puts down
    without another word. A lease that ended is not lost before `reap` has taken it.
    """

    def __init__(self, engine: AsyncEngine, settings: QueueSettings) -> None:
        self.settings = settings
        self._database = PatientDatabase(engine, settings.patience_s)
        self._submitting = Submitting(settings)
        self._together = Together(self._database)
        # Those that are known to be there.
        self._accounts: set[str] = set()

    # Those who order.

    async def submit(self, new: Sequence[NewGeneration]) -> list[Generation | Refusal]:
        """Takes orders, all in one transaction; what became of each, in the same order.

        The same request_id and body is the same order. What has been drawn already is given at once and costs nothing.
        """
        if unknown := set(accounts_of(new)) - self._accounts:
            await self._database.run(
                credits.open_accounts, sorted(unknown), self.settings.new_account_credits
            )
            self._accounts |= unknown
        return await self._database.run_whole(self._submitting.submit, new)

    async def cancel(self, generation_id: str, account: str) -> Generation:
        """Ends an order that waits, or asks its worker to; what was not drawn is paid back.

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
        """An account's orders, the newest first, and how many there are; `states` empty for all.

        Those that come `after` one of them; raises UnknownGenerationError.
        """
        return await self._database.run(
            reading.list_of, account, states, limit, offset, after, is_oldest_first
        )

    async def keep(self, generation_id: str, account: str, is_kept: bool) -> Generation:
        """Whether a clip is kept for good; raises UnknownGenerationError."""
        return await self._database.run(reading.keep, generation_id, account, is_kept)

    async def expire(self, generation_id: str, account: str) -> Generation:
        """Lets a finished clip's files go before their time; raises UnknownGenerationError.

        They are out of reach at once, and removed by retention, unless another order was given the same.
        """
        return await self._database.run(reading.expire, generation_id, account)

    async def events_after(self, generation_id: str, event_id: int = 0, limit: int = 1000) -> Sequence[Event]:
        """What happened to an order after an event, the oldest first."""
        return await self._database.run(events.after, generation_id, event_id, limit)

    # Workers.

    async def claim_pending(self, worker: str, limit: int, lease_s: float) -> Sequence[Claim]:
        """Takes up to `limit` orders whose words are to be encoded."""
        return await self._database.run(claiming.claim_pending, worker, limit, lease_s, secrets.token_hex(8))

    async def encoded(self, claims: Collection[Claim]) -> frozenset[str]:
        """Puts them into the queue for generators and gives up their leases; the ids of those it still had."""
        return await self._database.run(leases.encoded, {claim.id: claim.fence for claim in claims})

    async def claim_batch(self, worker: str, limit: int, lease_s: float) -> Sequence[Claim]:
        """Takes up to `limit` orders of one batch_key, of the tier whose turn it is."""
        return await self._database.run(
            claiming.claim_batch, self.settings, worker, limit, lease_s, secrets.token_hex(8)
        )

    async def heartbeat(self, worker: str, held: Mapping[str, int], lease_s: float) -> Beat:
        """Begins the leases anew: they end in `lease_s`."""
        return await self._database.run(leases.heartbeat, worker, held, lease_s)

    async def advance(self, held: Mapping[str, int], state: State) -> frozenset[str]:
        """Enters the next stage of the work; raises TransitionError if one that is held cannot."""
        leases.check_entered(state)
        said = [Entry(generation_id, fence, state) for generation_id, fence in held.items()]
        found = await asyncio.gather(*(self._together.entries.answer(entry) for entry in said))
        return leases.entered(said, found)

    async def progress(self, steps: Mapping[str, tuple[int, int, float]]) -> Beat:
        """Notes {id: (fence, steps done, milliseconds a step)}; tells at the same time what was lost or cancelled."""
        return await self._database.run(leases.progress, steps)

    async def checkpointed(
        self, generation_id: str, fence: int, step: int, key: str, size_bytes: int
    ) -> bool:
        """Notes a checkpoint; whoever claims the order next goes on from there."""
        return await self._database.run(leases.checkpointed, generation_id, fence, step, key, size_bytes)

    async def audit(self, generation_id: str, verdicts: Sequence[Verdict]) -> None:
        """Writes down what safety checks came to."""
        if verdicts:
            await self._together.audits.answer(Audited(generation_id, datetime.now(UTC), verdicts))

    async def complete(self, generation_id: str, fence: int, result: Result) -> bool:
        """Ends an order with its files; False if it was no longer the caller's."""
        return await self._together.completions.answer(Completion(generation_id, fence, result))

    async def fail(self, generation_id: str, fence: int, failure: Failure, is_final: bool) -> bool:
        """Ends an order that cannot be done, or, unless it `is_final`, puts it back to be tried again later."""
        return await self._database.run(ending.fail, self.settings, generation_id, fence, failure, is_final)

    async def block(self, generation_id: str, fence: int, failure: Failure) -> bool:
        """Ends an order that may not be shown; steps that were drawn are paid for."""
        return await self._database.run(ending.block, generation_id, fence, failure)

    async def cancelled(self, generation_id: str, fence: int) -> bool:
        """Ends an order that its worker stopped because it was asked to."""
        return await self._database.run(ending.cancelled, generation_id, fence)

    async def release(self, held: Mapping[str, int]) -> frozenset[str]:
        """Gives orders back at once; it does not count as an attempt."""
        return await self._database.run(ending.release, self.settings, held)

    # Those who look after it.

    async def reap(self, now: datetime | None = None) -> int:
        """Takes orders whose lease has ended from their workers, and wakes workers if there is work to do.

        They go back into the queue, or fail after `max_attempts`. How many there were. `now` is the database's time.
        """
        return await self._database.run(ending.reap, self.settings, now)

    async def stats(self) -> QueueStats:
        """How full the queue is."""
        return await self._database.run(reading.stats)

    async def seen(self, worker: str, kind: str, node: str) -> None:
        """Notes that a worker lives."""
        await self._database.run(workers.seen, worker, kind, node)

    async def gone(self, worker: str) -> None:
        """Forgets a worker that ended."""
        await self._database.run(workers.gone, worker)

    async def workers(self, seen_within_s: float) -> Sequence[workers.Worker]:
        """Those that were seen within so many seconds."""
        return await self._database.run(workers.alive, seen_within_s)

    async def balance(self, account: str) -> int:
        """Millicredits that an account can spend; a new one has what new ones are given."""
        return await self._database.run(credits.balance, account, self.settings.new_account_credits)

    async def grant(self, account: str, millicredits: int) -> int:
        """Gives an account millicredits; what it has then."""
        return await self._database.run(
            credits.grant, account, millicredits, self.settings.new_account_credits, secrets.token_hex(8)
        )
