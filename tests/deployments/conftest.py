"""A database of the running session store."""

from __future__ import annotations

import pytest
from valkey.asyncio import Valkey


@pytest.fixture
async def own_url(store_url: str) -> str:
    """An empty database of the server that a running application uses too."""
    url = f"{store_url}?db=1"
    server = Valkey.from_url(url)
    await server.flushdb()
    await server.aclose()
    return url
