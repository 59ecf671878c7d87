"""Who listens hears of events and of work."""

from __future__ import annotations

import asyncio

from psycopg import AsyncConnection

from gamegen.service.orders.listen import Listener
from gamegen.service.webhooks.deliveries import CHANNEL as WEBHOOKS_CHANNEL
from tests.service.orders.orders import new


async def test_each_hears_of_what_it_watches(queue, database_url) -> None:
    first, second = await queue.submit([new(), new()])
    async with (
        Listener(database_url) as listener,
        listener.watching(first.id) as one,
        listener.watching(first.id) as same,
        listener.watching(second.id) as other,
    ):
        # The first connection is like any other: look once.
        assert await one.changed(30) and await same.changed(30) and await other.changed(30)
        await queue.cancel(first.id, "ann")
        assert await one.changed(30) and await same.changed(30)
        assert not await other.changed(0.1)


async def test_workers_are_woken_by_their_kind_of_work(queue, database_url) -> None:
    async with Listener(database_url) as listener:
        with listener.working("PENDING") as encoder, listener.working("QUEUED") as generator:
            assert await encoder.changed(30) and await generator.changed(30)
            waiting = asyncio.create_task(listener.work("QUEUED"))
            await queue.submit([new()])
            assert await encoder.changed(30)
            assert not await generator.changed(0.1)
            await queue.encoded(await queue.claim_pending("w", 1, 60))
            assert await generator.changed(30) and await waiting
            assert not await encoder.changed(0.1)


async def test_who_delivers_webhooks_is_woken(queue, database_url) -> None:
    connection = await AsyncConnection.connect(database_url, autocommit=True)
    async with connection:
        await connection.execute(f"listen {WEBHOOKS_CHANNEL}")
        (taken,) = await queue.submit([new(webhook_url="https://example.com")])
        await queue.cancel(taken.id, "ann")
        heard = [notification.channel async for notification in connection.notifies(timeout=30, stop_after=1)]
        assert heard == [WEBHOOKS_CHANNEL]
