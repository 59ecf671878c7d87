"""The oldest PostgreSQL that will do, where Debian's is installed."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gamegen.database import schema
from gamegen.database.connection import connect
from gamegen.videos.listen import Listener
from gamegen.videos.queue import VideoQueue
from gamegen.videos.tiers import QueueSettings
from tests.videos.orders import check_books, new, rows
from tests.videos.test_histories import ACTORS, Chance, check_history

PROGRAMS = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def old_url() -> Iterator[str]:
    """A server of version 15, which another user runs if this one is root."""
    if not PROGRAMS.exists():
        pytest.skip("needs Debian's package postgresql-15")
    user = "postgres" if os.geteuid() == 0 else None

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [PROGRAMS / program, *arguments], user=user, cwd="/", check=True, stdout=subprocess.DEVNULL
        )

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="pg") as folder:
        if user:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        run("initdb", "-D", data, "--auth=trust", "--encoding=utf8", "-U", "postgres", "--no-sync")
        options = f"-c listen_addresses='' -k {folder} -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
        yield f"postgresql://postgres@/postgres?host={folder}"
        run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


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
