"""Removes clips, orders and objects that have been kept for long enough.

    python -m jobs.retention --content-days 30 --metadata-days 90

It may be started by several at once, and as often as one likes: one of them does the work.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import ray
import typer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table

from gamegen.process.command import run_command
from gamegen.service.database.connection import connect as connect_database
from gamegen.service.database.embedded import reachable_database
from gamegen.service.database.schema import check_newest
from gamegen.service.retention.retention import Retention
from gamegen.service.retention.settings import RemovedCounts, RetentionSettings
from gamegen.storage.encryption import open_store
from jobs.cluster import connect

_KINDS = {
    "expired": "clips that are given out no longer",
    "clips": "clips whose files were removed",
    "checkpoints": "checkpoints of finished orders",
    "orders": "orders that were forgotten",
    "inputs": "inputs that no order needs",
    "orphans": "files that no order names",
    "unfinished_uploads": "uploads that were begun and left",
}


def run(database_url: str, store_url: str | None, settings: RetentionSettings) -> RemovedCounts | None:
    """Removes expired clips, orders and objects on a running Ray; None if another run is in progress."""
    # The database and the store may be this machine's own.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    task = _run.options(scheduling_strategy=here)
    return ray.get(task.remote(database_url, store_url, settings))


@ray.remote(num_cpus=0, max_retries=3)
def _run(database_url: str, store_url: str | None, settings: RetentionSettings) -> RemovedCounts | None:
    return asyncio.run(_remove(database_url, store_url, settings))


async def _remove(
    database_url: str, store_url: str | None, settings: RetentionSettings
) -> RemovedCounts | None:
    engine = connect_database(database_url, pool_size=2, prepares=False)
    try:
        return await Retention(engine, open_store(store_url), settings).run()
    finally:
        await engine.dispose()


def main(
    content_days: Annotated[float, typer.Option(help="clips that nobody keeps go after so many days")] = 30,
    metadata_days: Annotated[
        float, typer.Option(help="what is known of their orders goes after so many")
    ] = 90,
    grace_minutes: Annotated[float, typer.Option(help="files of a clip go so long after it expired")] = 60,
    database: Annotated[
        str | None, typer.Option(envvar="DATABASE_URL", help="instead of this machine's own")
    ] = None,
    store: Annotated[
        str | None, typer.Option(envvar="OBJECT_STORE_URL", help="s3://bucket/prefix or a folder")
    ] = None,
) -> None:
    """Remove what has been kept for long enough.

    Example: gamegen retention --content-days 30 --metadata-days 90
    """
    settings = RetentionSettings(content_days, metadata_days, grace_minutes)
    with reachable_database(database) as url:
        check_newest(url)
        connect()
        removed = run(url, store, settings)
    Console().print(_table(removed) if removed else "another run is at it")
    if removed and removed.not_removed:
        typer.echo(f"error: {removed.reason}; run this again once it is mended", err=True)
        raise typer.Exit(1)


def _table(removed: RemovedCounts) -> Table:
    table = Table("removed", "")
    counts = asdict(removed)
    for name, meaning in _KINDS.items():
        table.add_row(meaning, str(counts[name]))
    return table


if __name__ == "__main__":
    run_command(main)
