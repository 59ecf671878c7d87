"""Who goes next: every tier has its share, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.service.orders.order import Tier
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.tiers import QueueSettings
from tests.service.orders.orders import new, rows


async def fill(queue: VideoQueue, **counts: int) -> None:
    """Puts so many orders of each tier before the generators."""
    for tier, count in counts.items():
        await queue.submit([new(tier=Tier(tier)) for _ in range(count)])
    await queue.encoded(await queue.claim_pending("encoder", 1000, 60))


async def claim(queue: VideoQueue, engine: AsyncEngine, count: int, at_once: int = 1) -> Counter[str]:
    """Claims so many orders; how many of each tier they were."""
    ids = []
    while len(ids) < count:
        ids += [claim.id for claim in await queue.claim_batch("w", at_once, 600)]
    found = await rows(engine, "select tier from generations where id = any(:ids)", ids=ids)
    return Counter(row.tier for row in found)


async def test_full_tiers_get_their_shares_of_a_thousand_claims(queue, engine) -> None:
    # The shares are 5, 3 and 2.
    for _ in range(2):
        await fill(queue, realtime=260, standard=160, cinema=110)
        tiers = await claim(queue, engine, 500)
        assert abs(tiers["realtime"] - 250) <= 2
        assert abs(tiers["standard"] - 150) <= 2
        assert abs(tiers["cinema"] - 100) <= 2


async def test_batches_count_for_as_many_as_they_are(queue, engine) -> None:
    await fill(queue, realtime=300, standard=200, cinema=150)
    tiers = await claim(queue, engine, 400, at_once=8)
    assert abs(tiers["realtime"] - 200) <= 16
    assert abs(tiers["cinema"] - 80) <= 16


async def test_a_tier_that_had_no_work_does_not_catch_up(queue, engine) -> None:
    await fill(queue, realtime=100)
    await claim(queue, engine, 100)
    await fill(queue, realtime=60, cinema=60)
    tiers = await claim(queue, engine, 35)
    # Five to two, from the moment on that both have some.
    assert abs(tiers["cinema"] - 10) <= 1


async def test_the_urgent_go_first_but_cannot_starve_the_others(queue, engine) -> None:
    (patient,) = await queue.submit([new(priority=0)])
    await queue.encoded(await queue.claim_pending("encoder", 1, 60))
    for waited_s in (0, 9 * 60 + 1):
        async with engine.begin() as connection:
            # It came so much earlier.
            aged = text("update generations set rank = rank - :s where priority = 0")
            await connection.execute(aged, {"s": waited_s})
        await queue.submit([new(priority=9) for _ in range(20)])
        await queue.encoded(await queue.claim_pending("encoder", 20, 60))
        (first,) = await queue.claim_batch("w", 1, 60)
        assert (first.id == patient.id) == (waited_s > 0)


async def test_those_of_one_priority_go_in_the_order_they_came(queue, engine) -> None:
    taken = [(await queue.submit([new(), new()])) for _ in range(5)]
    ids = [generation.id for pair in taken for generation in pair]
    pending = await queue.claim_pending("encoder", 100, 60)
    assert [claim.id for claim in pending] == ids
    await queue.encoded(pending)
    claimed = [await queue.claim_batch("w", 3, 60) for _ in range(4)]
    assert [claim.id for batch in claimed for claim in batch] == ids


async def test_shares_are_by_work_and_not_by_orders(engine) -> None:
    queue = VideoQueue(engine, QueueSettings(max_waiting=1000))
    await queue.submit([new(tier=Tier.CINEMA, num_steps=50) for _ in range(50)])
    await queue.submit([new(tier=Tier.REALTIME, num_steps=10) for _ in range(100)])
    await queue.encoded(await queue.claim_pending("encoder", 1000, 60))
    ids = [claim.id for _ in range(54) for claim in await queue.claim_batch("w", 1, 600)]
    found = await rows(
        engine,
        "select tier, sum(num_steps) as work from generations where id = any(:ids) group by tier",
        ids=ids,
    )
    work = {row.tier: row.work for row in found}
    assert abs(work["realtime"] / work["cinema"] - 2.5) < 0.3
