"""A workshop on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gamegen.database.connection import connect
from gamegen.provenance.certificates import signer_from_environment
from gamegen.storage.objects import LocalStore
from gamegen.videos.listen import Listener
from gamegen.videos.queue import VideoQueue
from gamegen.videos.tiers import QueueSettings
from tests.deployments.videos.workshop import Workshop


@pytest.fixture
async def workshop(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Workshop]:
    """An empty queue, where a failed order may be tried again at once, three times."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    engine = connect(database_url)
    queue = VideoQueue(engine, QueueSettings(retry_s=0, max_attempts=3))
    async with Listener(database_url) as listener:
        yield Workshop(engine, queue, listener, LocalStore(tmp_path / "store"), signer_from_environment())
    await engine.dispose()
