"""How orders enter the queue: many in one transaction, each paid for, none twice."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Row, text

from gamegen.database.patience import Turn
from gamegen.videos.ending import DELIVERED
from gamegen.videos.events import NOTIFIED, WEBHOOKS_CHANNEL
from gamegen.videos.group import Group
from gamegen.videos.reading import generation_of
from gamegen.videos.records import Generation, NewGeneration, Refusal
from gamegen.videos.tiers import QueueSettings

MOST_AT_ONCE = 1000
_COUNTS_FOR_S = 1.0

# Who orders at the same time for one account waits here, so that the same request is seen by the second of them.
_BALANCES = text(
    """
    select id, balance_millicredits from accounts where id = any(cast(:accounts as text[]))
    order by id for no key update
    """
)
_KNOWN = text(
    """
    select false as is_drawn, g.* from generations g where id = any(cast(:ids as text[]))
    union all
    select false, g.* from generations g
    join unnest(cast(:accounts as text[]), cast(:requests as text[])) as asked(account, request_id)
        on g.account = asked.account and g.request_id = asked.request_id
    union all
    (select distinct on (content_hash) true, g.* from generations g
    where state = 'COMPLETED' and expired_at is null and content_hash = any(cast(:hashes as text[]))
    order by content_hash, created_at)
    """
)
_COUNTS = text(
    "select account, count(*) as waiting from generations where finished_at is null group by account"
)
_INSERTED = text(
    f"""
    with new as (
        select * from jsonb_to_recordset(cast(:rows as jsonb)) as n(
            position int, id text, account text, request_id text, body_hash text, state text, tier text,
            priority int, "order" jsonb, batch_key text, content_hash text, webhook_url text,
            millicredits bigint, num_steps int, content_key text, content_bytes bigint, content_sha256 text,
            frames_sha256 text, thumbnail_key text)
    ), moved as (
        insert into generations (
            id, account, request_id, body_hash, state, tier, priority, "order", batch_key, content_hash,
            webhook_url, millicredits, num_steps, content_key, content_bytes, content_sha256, frames_sha256,
            thumbnail_key, step, finished_at, rank)
        select
            id, account, request_id, body_hash, state, tier, priority, "order", batch_key, content_hash,
            webhook_url, millicredits, num_steps, content_key, content_bytes, content_sha256, frames_sha256,
            thumbnail_key, case when state = 'COMPLETED' then num_steps else 0 end,
            case when state = 'COMPLETED' then now() end,
            -- Of those that come together the first is the first.
            extract(epoch from now()) - priority * cast(:ageing_s as float8) + position * 1e-6
        from new
        returning *
    ), told as (
        insert into events (generation_id, kind, state, fence, data)
        select moved.id, 'state', s.state, 0, jsonb_build_object()
        from moved join (values (1, 'PENDING'), (2, 'COMPLETED')) as s(n, state)
            on s.n = 1 or moved.state = 'COMPLETED'
        order by moved.rank, s.n
        returning id as event_id, generation_id, state
    ), reserved as (
        insert into credits_ledger (account, generation_id, kind, millicredits)
        select account, id, 'reserve', -millicredits from moved where millicredits > 0
    ), paid as (
        update accounts a set balance_millicredits = a.balance_millicredits - s.millicredits
        from (select account, sum(millicredits) as millicredits from moved group by account) s
        where a.id = s.account and s.millicredits > 0
    ), {DELIVERED}
    select moved.*, {NOTIFIED}, case when moved.finished_at is not null and moved.webhook_url is not null
        then pg_notify('{WEBHOOKS_CHANNEL}', '')::text end
    from moved join told on told.generation_id = moved.id and told.state = moved.state
    """
)


class Submitting:
    """Takes orders within the limits that `settings` sets.

    How many wait is looked up once a second: of several processes each may let in what came within it.
    """

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._waiting: Counter[str] = Counter()
        self._counted_at = -math.inf

    async def submit(self, turn: Turn, new: Sequence[NewGeneration]) -> list[Generation | Refusal]:
        """Takes them all, or tells of each why not; raises ValueError if there are too many at once.

        Their accounts are there already: made here, they would be locked in another order than those that were.
        """
        if len(new) > MOST_AT_ONCE:
            raise ValueError(f"{len(new)} orders at once: submit at most {MOST_AT_ONCE}")
        if not new:
            return []
        found = await turn.rows(_BALANCES, accounts=accounts_of(new))
        balances = {row.id: row.balance_millicredits for row in found}
        await self._count(turn)
        group = Group(self._settings, balances, self._waiting.copy(), await _known(turn, new))
        answers = [group.take(order) for order in new]
        inserted = await self._insert(turn, group)
        self._waiting.update(g.account for g in inserted.values() if g.finished_at is None)
        return [inserted[answer] if isinstance(answer, str) else answer for answer in answers]

    async def _count(self, turn: Turn) -> None:
        if time.monotonic() - self._counted_at < _COUNTS_FOR_S:
            return
        self._waiting = Counter({row.account: row.waiting for row in await turn.rows(_COUNTS)})
        self._counted_at = time.monotonic()

    async def _insert(self, turn: Turn, group: Group) -> dict[str, Generation]:
        if not group.accepted:
            return {}
        rows = await turn.rows(
            _INSERTED, rows=json.dumps(group.rows()), ageing_s=float(self._settings.ageing_s)
        )
        return {row.id: generation_of(row, group.accepted[row.id].order) for row in rows}


def accounts_of(new: Sequence[NewGeneration]) -> list[str]:
    """Whose orders they are."""
    return sorted({order.account for order in new})


async def _known(turn: Turn, new: Sequence[NewGeneration]) -> Sequence[Row]:
    named = [order for order in new if order.request_id is not None]
    return await turn.rows(
        _KNOWN,
        ids=[order.id for order in new],
        accounts=[order.account for order in named],
        requests=[order.request_id for order in named],
        hashes=[order.order.content_hash for order in new],
    )
