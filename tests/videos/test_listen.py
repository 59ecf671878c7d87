"""Who listens hears of events and of work."""

from __future__ import annotations

import asyncio

from gamegen.videos.listen import Listener
from tests.videos.orders import new


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
        with (
            listener.working("PENDING") as encoder,
            listener.working("QUEUED") as generator,
            listener.working("WEBHOOK") as webhooks,
        ):
            for watch in (encoder, generator, webhooks):
                assert await watch.changed(30)
            (taken,) = await queue.submit([new(webhook_url="https://example.com")])
            assert await encoder.changed(30)
            await queue.encoded(await queue.claim_pending("w", 1, 60))
            assert await generator.changed(30)
            waiting = asyncio.create_task(listener.work("WEBHOOK"))
            assert not await webhooks.changed(0.1)
            await queue.cancel(taken.id, "ann")
            assert await webhooks.changed(30) and await waiting
            assert not await encoder.changed(0.1)
