"""How workers get orders: each goes to one, and every tier has its share of the work."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Row, text

from gamegen.database.patience import Turn
from gamegen.videos.events import NOTIFIED, TOLD
from gamegen.videos.order import Order, Tier
from gamegen.videos.records import Claim
from gamegen.videos.tiers import QueueSettings

_CLAIMED = f"""
moved as (
    update generations g set
        state = :state,
        worker = :worker,
        lease_until = now() + make_interval(secs => :lease_s),
        fence = g.fence + 1,
        attempts = g.attempts + 1,
        started_at = coalesce(g.started_at, now()),
        step = coalesce(c.step, 0)
    from picked p left join lateral (
        select step, key from checkpoints where generation_id = p.id order by step desc limit 1
    ) c on true
    where g.id = p.id
    returning g.*, c.key as checkpoint_key, c.step as checkpoint_step,
        jsonb_build_object('worker', g.worker, 'claim', cast(:claim as text)) as data
), {TOLD}"""
_SELECTED = f"""
select moved.id, account, fence, attempts, "order", num_steps, checkpoint_key, checkpoint_step, rank,
    moved.tier, moved.created_at, {NOTIFIED}
from moved join told on told.generation_id = moved.id"""

_PENDING = text(
    f"""
    with picked as (
        select id from generations
        where state = 'PENDING' and available_at <= now()
        order by rank limit :limit
        for update skip locked
    ), {_CLAIMED} {_SELECTED}
    """
)

# A tier that has no work moves along with the others: it has no claim to the work that it missed.
_TURNS = text(
    """
    with heads as (
        select s.name, coalesce(t.pass, 0) as pass, exists (
            select from generations
            where state = 'QUEUED' and worker is null and tier = s.name and available_at <= now()
        ) as is_waiting
        from unnest(cast(:tiers as text[])) as s(name) left join tiers t on t.name = s.name
    ), floor as (
        select min(pass) as pass from heads where is_waiting
    ), lifted as (
        insert into tiers (name, pass)
        select heads.name, floor.pass from heads, floor
        where not heads.is_waiting and heads.pass < floor.pass
        order by heads.name
        on conflict (name) do update set pass = greatest(tiers.pass, excluded.pass)
    )
    select name from heads where is_waiting order by pass, name
    """
)

_QUEUED = """state = 'QUEUED' and worker is null and tier = :tier and available_at <= now()"""
_BATCH = text(
    f"""
    with head as (
        select id, batch_key from generations where {_QUEUED}
        order by rank limit 1 for update skip locked
    ), mates as (
        select g.id from generations g, head
        where {_QUEUED} and g.batch_key = head.batch_key and g.id <> head.id
        order by rank limit :limit - 1 for update of g skip locked
    ), picked as (
        select id from head union all select id from mates
    ), {_CLAIMED}, charged as (
        insert into tiers (name, pass)
        select :tier, work / :share from (
            select sum(num_steps * ("order"->>'width')::float8 * ("order"->>'height')::float8) / 1e6 as work
            from moved
        ) total
        where work is not null
        on conflict (name) do update set pass = tiers.pass + excluded.pass
    ) {_SELECTED}
    """
)

# Only a repeat asks: the claim before it may have been carried out though nobody heard of it.
_EARLIER = text(
    """
    select g.id, g.account, g.fence, g.attempts, g."order", g.num_steps, g.rank, g.tier, g.created_at,
        c.key as checkpoint_key, c.step as checkpoint_step
    from generations g
    join events e on e.generation_id = g.id and e.fence = g.fence and e.data->>'claim' = :claim
    left join lateral (
        select step, key from checkpoints where generation_id = g.id order by step desc limit 1
    ) c on true
    where g.worker = :worker
    """
)


async def claim_pending(turn: Turn, worker: str, limit: int, lease_s: float, claim: str) -> Sequence[Claim]:
    """PENDING becomes ENCODING; `claim` is a new name for this claim."""
    _check(limit)
    if turn.is_repeat and (earlier := await turn.rows(_EARLIER, worker=worker, claim=claim)):
        return _claims(earlier)
    return _claims(
        await turn.rows(
            _PENDING, state="ENCODING", worker=worker, limit=limit, lease_s=float(lease_s), claim=claim
        )
    )


async def claim_batch(
    turn: Turn, settings: QueueSettings, worker: str, limit: int, lease_s: float, claim: str
) -> Sequence[Claim]:
    """QUEUED becomes ASSIGNED, in the tier that has had the least for its share, and has an order to give."""
    _check(limit)
    if turn.is_repeat and (earlier := await turn.rows(_EARLIER, worker=worker, claim=claim)):
        return _claims(earlier)
    for row in await turn.rows(_TURNS, tiers=list(Tier)):
        claimed = await turn.rows(
            _BATCH,
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


def _check(limit: int) -> None:
    if not 1 <= limit <= 1000:
        raise ValueError(f"limit = {limit}: claim 1 to 1000 orders at once")


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
