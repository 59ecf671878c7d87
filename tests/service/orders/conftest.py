"""A queue on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.service.database.connection import connect
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.tiers import QueueSettings


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Connections to a new database."""
    engine = connect(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def queue(engine: AsyncEngine) -> VideoQueue:
    """An empty queue, where a failed order may be tried again at once."""
    return VideoQueue(engine, QueueSettings(retry_s=0, max_attempts=3))
