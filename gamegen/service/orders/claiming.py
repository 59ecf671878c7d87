"""Claims of orders by workers: each order goes to one worker, and every tier gets its share of the work."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Row

from gamegen.service.database.retrying import Attempt
from gamegen.service.orders.order import Order, Tier
from gamegen.service.orders.records import Claim
from gamegen.service.orders.statements import statement
from gamegen.service.orders.tiers import QueueSettings

_MAX_CLAIMED = 1000
_CLAIM_PENDING = statement("claim_pending")
_TIERS_BY_VIRTUAL_TIME = statement("tiers_by_virtual_time")
_CLAIM_BATCH = statement("claim_batch")
_CLAIMED_BEFORE = statement("claimed_before")


async def claim_pending(
    attempt: Attempt, worker: str, limit: int, lease_s: float, claim: str
) -> Sequence[Claim]:
    """Moves up to `limit` orders from PENDING to ENCODING; `claim` is a new name for this claim."""
    _check_limit(limit)
    if earlier := await _claimed_before(attempt, worker, claim):
        return earlier
    rows = await attempt.rows(
        _CLAIM_PENDING,
        state="ENCODING",
        worker=worker,
        limit=limit,
        lease_s=float(lease_s),
        claim=claim,
    )
    return _claims(rows)


async def claim_batch(
    attempt: Attempt, settings: QueueSettings, worker: str, limit: int, lease_s: float, claim: str
) -> Sequence[Claim]:
    """Moves up to `limit` orders of one batch key from QUEUED to ASSIGNED.

    They are of the tier with the least virtual time (stride scheduling) among those that have orders to give.
    """
    _check_limit(limit)
    if earlier := await _claimed_before(attempt, worker, claim):
        return earlier
    for row in await attempt.rows(_TIERS_BY_VIRTUAL_TIME, tiers=list(Tier)):
        claimed = await attempt.rows(
            _CLAIM_BATCH,
            state="ASSIGNED",
            tier=row.name,
            share=float(settings.tiers.of(Tier(row.name)).share),
            worker=worker,
            limit=limit,
            lease_s=float(lease_s),
            claim=claim,
        )
        if claimed:
            return _claims(claimed)
    return []


async def _claimed_before(attempt: Attempt, worker: str, claim: str) -> Sequence[Claim]:
    """Orders that an earlier attempt claimed, if its answer was lost."""
    if not attempt.is_repeat:
        return []
    return _claims(await attempt.rows(_CLAIMED_BEFORE, worker=worker, claim=claim))


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= _MAX_CLAIMED:
        raise ValueError(f"limit = {limit}: claim 1 to {_MAX_CLAIMED} orders at once")


def _claims(rows: Sequence[Row]) -> Sequence[Claim]:
    return [
        Claim(
            id=row.id,
            account=row.account,
            fence=row.fence,
            attempts=row.attempts,
            order=Order.from_dict(row.order),
            num_steps=row.num_steps,
            tier=Tier(row.tier),
            created_at=row.created_at,
            checkpoint_key=row.checkpoint_key,
            checkpoint_step=row.checkpoint_step or 0,
        )
        for row in sorted(rows, key=lambda row: (row.rank, row.id))
    ]
