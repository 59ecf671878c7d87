"""The oldest PostgreSQL that will do, where Debian's is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gamegen.service.database import schema
from gamegen.service.database.connection import connect
from gamegen.service.orders.listen import Listener
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.tiers import QueueSettings
from tests.databases import older_programs, older_server
from tests.service.orders.orders import check_books, new, rows
from tests.service.orders.test_histories import ACTORS, Chance, check_history


@pytest.fixture
def old_url() -> Iterator[str]:
    """A server of the oldest version that Debian has here."""
    if older_programs() is None:
        pytest.skip("needs Debian's PostgreSQL: cluster/install-system-packages.sh")
    with older_server() as url:
        yield url


async def test_the_queue_works_on_the_oldest_server(old_url) -> None:
    await asyncio.to_thread(schema.upgrade, old_url)
    engine = connect(old_url)
    ((version,),) = await rows(engine, "show server_version")
    assert version.startswith("15.")
    queue = VideoQueue(engine, QueueSettings(retry_s=0, max_attempts=2))
    chance = Chance(queue, 0)
    await asyncio.gather(*(chance.act(f"w{number}") for number in range(ACTORS)))
    await check_books(engine)
    await check_history(engine)
    async with Listener(old_url) as listener:
        with listener.working("PENDING") as watch:
            assert await watch.changed(30)
            await queue.submit([new()])
            assert await watch.changed(30)
    await engine.dispose()
    await asyncio.to_thread(schema.downgrade, old_url, "base")
