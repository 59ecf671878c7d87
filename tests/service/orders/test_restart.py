"""The database server is killed in the middle of everything: callers see a delay."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.service.database import schema
from gamegen.service.database.connection import connect, connect_blocking
from gamegen.service.database.embedded import kept_running
from gamegen.service.database.postgres_server import PostgresServer
from gamegen.service.database.retrying import DatabaseAwayError
from gamegen.service.orders.listen import Listener
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.states import State
from gamegen.service.orders.tiers import QueueSettings
from tests.service.orders.orders import check_books, new, result, rows
from tests.service.orders.test_queue import WORK

ORDERS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that may be killed."""
    with PostgresServer(tmp_path_factory.mktemp("server") / "database") as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    """A new database there."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = connect_blocking(server.url()).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    schema.upgrade(server.url(name))
    return server.url(name)


async def kill(server: PostgresServer) -> None:
    """Ends it, main process and all, without a word to anybody."""
    main = server.main_process()
    assert main is not None
    others = main.children()
    main.kill()
    await asyncio.to_thread(psutil.wait_procs, [main, *others], 10)


async def is_known(server: PostgresServer) -> None:
    """Waits for a process that runs."""
    async with asyncio.timeout(60):
        while server.main_process() is None:
            await asyncio.sleep(0.05)


async def start(server: PostgresServer) -> None:
    """Runs it again."""
    await asyncio.to_thread(server.ensure_running)


async def work(queue: VideoQueue, worker: str, listener: Listener) -> None:
    """Encodes and draws until everything has ended."""
    with listener.working() as watch:
        while not await all_ended(queue):
            await queue.encoded(await queue.claim_pending(worker, 4, 60))
            for claim in await queue.claim_batch(worker, 4, 60):
                for state in WORK:
                    await queue.advance({claim.id: claim.fence}, state)
                await queue.complete(claim.id, claim.fence, result(claim.id))
            await watch.changed(timeout_s=0.2)


async def all_ended(queue: VideoQueue) -> bool:
    _, total = await queue.list("ann", {State.COMPLETED}, limit=1)
    return total == ORDERS


async def submit(queue: VideoQueue) -> None:
    for _ in range(ORDERS // 5):
        await queue.submit([new(millicredits=10) for _ in range(5)])
        await asyncio.sleep(0.05)


async def test_a_server_that_is_killed_and_comes_back_is_a_delay(server, url) -> None:
    engine = connect(url)
    queue = VideoQueue(engine, QueueSettings(max_attempts=1))
    try:
        async with Listener(url) as listener, asyncio.TaskGroup() as tasks:
            tasks.create_task(submit(queue))
            for number in range(3):
                tasks.create_task(work(queue, f"w{number}", listener))
            for _ in range(2):
                await asyncio.sleep(0.3)
                await kill(server)
                await start(server)
        # Nobody's lease ended: whoever claimed an order when the connection broke was told of it by asking again.
        fences = await rows(engine, "select fence, attempts, state from generations")
        assert [tuple(row) for row in fences] == [(2, 1, "COMPLETED")] * ORDERS
        counted = await rows(
            engine, "select state, count(*) as n from events where kind = 'state' group by state"
        )
        assert {row.state: row.n for row in counted} == dict.fromkeys(
            ("PENDING", "ENCODING", "QUEUED", "ASSIGNED", *WORK, "COMPLETED"), ORDERS
        )
        assert await queue.balance("ann") == 10_000_000 - 10 * ORDERS
        await check_books(engine)
    finally:
        await engine.dispose()


async def test_what_is_told_is_heard_again_after_the_server_came_back(server, url) -> None:
    engine = connect(url)
    queue = VideoQueue(engine, QueueSettings())
    try:
        async with Listener(url) as listener:
            (taken,) = await queue.submit([new()])
            async with listener.watching(taken.id) as watch:
                with listener.working("PENDING") as pending:
                    await reached(listener)
                    await kill(server)
                    await start(server)
                    # Whatever was missed is looked for again.
                    assert await watch.changed(30) and await pending.changed(30)
                    await reached(listener)
                    (claim,) = await queue.claim_pending("w", 1, 60)
                    assert await watch.changed(30)
                    await queue.submit([new()])
                    assert await pending.changed(30)
                    assert claim.id == taken.id
    finally:
        await engine.dispose()


async def reached(listener: Listener) -> None:
    async with asyncio.timeout(30):
        while not listener.is_connected:
            await asyncio.sleep(0.02)


async def test_a_server_of_ones_own_is_started_again(server, url) -> None:
    engine = connect(url)
    queue = VideoQueue(engine, QueueSettings())
    (taken,) = await queue.submit([new()])
    with kept_running(server):
        for _ in range(2):
            await is_known(server)
            await kill(server)
            assert (await queue.get(taken.id, None)).state is State.PENDING
    await engine.dispose()


async def test_a_server_that_stays_away_is_an_error_that_says_so(server, url) -> None:
    engine: AsyncEngine = connect(url)
    queue = VideoQueue(engine, QueueSettings(patience_s=0.5))
    await queue.stats()
    await kill(server)
    with pytest.raises(DatabaseAwayError, match=r"has not answered for 0\.5 s"):
        await queue.stats()
    await engine.dispose()
    await start(server)
