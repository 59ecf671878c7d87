"""A session store and its queue, on an empty database of a real Valkey server, and on one in cluster mode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from valkey.asyncio import Valkey

from deployments.sessions.admission_queue import AdmissionQueue
from deployments.sessions.limits import StoreLimits
from deployments.sessions.store import SessionStore
from deployments.sessions.valkey_client import connect
from tests.deployments.sessions.valkey_servers import LAST_SLOT, cluster_node, wait_until_up

LIMITS = StoreLimits(kept_s=60, lease_s=30, return_s=30)


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one node, as hosted stores appear."""
    with cluster_node(tmp_path_factory.mktemp("cluster")) as (url, node):
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, LAST_SLOT)
        wait_until_up(node)
        yield url


@pytest.fixture(params=["alone", "cluster"])
async def own_url(request: pytest.FixtureRequest) -> str:
    """An empty database of a server of each kind; clusters have no more than one."""
    if request.param == "alone":
        url = f"{request.getfixturevalue('store_url')}?db=1"
    else:
        url = request.getfixturevalue("cluster_url")
    async with Valkey.from_url(url) as server:
        await server.flushdb()
    return url


@pytest.fixture
async def valkey(own_url: str) -> AsyncIterator[Valkey]:
    client = connect(own_url)
    yield client
    await client.aclose()


@pytest.fixture
def store(valkey: Valkey) -> SessionStore:
    return SessionStore(valkey, LIMITS)


@pytest.fixture
def queue(valkey: Valkey) -> AdmissionQueue:
    return AdmissionQueue(valkey, LIMITS)
