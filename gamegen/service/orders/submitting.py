"""Submission of orders to the queue: many in one transaction, each paid for and none twice."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Row

from gamegen.service.database.retrying import Attempt
from gamegen.service.orders.reading import generation_of
from gamegen.service.orders.records import Generation, NewGeneration, OrderRefusal
from gamegen.service.orders.statements import statement
from gamegen.service.orders.submission_batch import SubmissionBatch
from gamegen.service.orders.tiers import QueueSettings

MAX_SUBMITTED = 1000
_RECOUNT_S = 1.0

_LOCK_BALANCES = statement("lock_balances")
_FIND_KNOWN = statement("find_known")
_COUNT_BY_ACCOUNT = statement("count_by_account")
_SUBMIT = statement("submit")


class Submitter:
    """Accepts orders within the limits of `settings`.

    Unfinished orders are counted once a second, so several processes together may exceed a limit by the orders of a
    second.
    """

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._waiting: Counter[str] = Counter()
        self._counted_at = -math.inf

    async def submit(self, attempt: Attempt, new: Sequence[NewGeneration]) -> list[Generation | OrderRefusal]:
        """Accepts or refuses each order; raises ValueError for more than `MAX_SUBMITTED` at once.

        Their accounts must exist: rows made in this transaction would be locked in another order than `lock_balances`
        does, and two submissions could deadlock.
        """
        if len(new) > MAX_SUBMITTED:
            raise ValueError(f"{len(new)} orders at once: submit at most {MAX_SUBMITTED}")
        if not new:
            return []
        found = await attempt.rows(_LOCK_BALANCES, accounts=accounts_of(new))
        balances = {row.id: row.balance_millicredits for row in found}
        await self._count(attempt)
        batch = SubmissionBatch(self._settings, balances, self._waiting.copy(), await _known(attempt, new))
        answers = [batch.take(order) for order in new]
        inserted = await self._insert(attempt, batch)
        self._waiting.update(g.account for g in inserted.values() if g.finished_at is None)
        return [inserted[answer] if isinstance(answer, str) else answer for answer in answers]

    async def _count(self, attempt: Attempt) -> None:
        if time.monotonic() - self._counted_at < _RECOUNT_S:
            return
        self._waiting = Counter({row.account: row.waiting for row in await attempt.rows(_COUNT_BY_ACCOUNT)})
        self._counted_at = time.monotonic()

    async def _insert(self, attempt: Attempt, batch: SubmissionBatch) -> dict[str, Generation]:
        if not batch.accepted:
            return {}
        rows = await attempt.rows(
            _SUBMIT, rows=json.dumps(batch.rows()), ageing_s=float(self._settings.ageing_s)
        )
        return {row.id: generation_of(row, batch.accepted[row.id].order) for row in rows}


def accounts_of(new: Sequence[NewGeneration]) -> list[str]:
    """Accounts of some orders, sorted."""
    return sorted({order.account for order in new})


async def _known(attempt: Attempt, new: Sequence[NewGeneration]) -> Sequence[Row]:
    named = [order for order in new if order.request_id is not None]
    return await attempt.rows(
        _FIND_KNOWN,
        ids=[order.id for order in new],
        accounts=[order.account for order in named],
        requests=[order.request_id for order in named],
        hashes=[order.order.content_hash for order in new],
    )
