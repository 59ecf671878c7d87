"""`gamegen backup` and `gamegen restore`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from gamegen.service.backup import backup as saving

Folder = Annotated[str, typer.Argument(metavar="FOLDER|s3://...", help="where backups are")]
Database = Annotated[
    str | None, typer.Option(envvar="DATABASE_URL", help="instead of this machine's own database")
]
Store = Annotated[
    str | None,
    typer.Option(
        envvar="OBJECT_STORE_URL", help="s3://bucket/prefix or a folder; by default a folder of yours"
    ),
]
Name = Annotated[str | None, typer.Option(help="the newest by default")]


def backup(folder: Folder, database: Database = None, store: Store = None) -> None:
    """Saves the database and the objects that it needs; a later backup to the same place saves what is new.

    Example: gamegen backup s3://backups/worlds
    """
    from gamegen.service.backup import backup as saving
    from gamegen.service.database.embedded import reachable_database
    from gamegen.storage.encryption import open_store

    with reachable_database(database) as url, _bars() as progress:
        name, manifest = saving.backup(url, open_store(store), open_store(folder), progress)
    size_mib = manifest.object_bytes / 2**20
    print(f"{name}: {manifest.num_rows} rows and {manifest.num_objects} objects of {size_mib:.1f} MiB")
    if manifest.num_lost:
        shown = ", ".join(manifest.lost[:5])
        print(f"{manifest.num_lost} objects are absent from the store or are not what they were: {shown}")


def restore(
    folder: Folder,
    name: Name = None,
    database: Database = None,
    store: Store = None,
    check: Annotated[bool, typer.Option("--check", help="read all of the backup and write nothing")] = False,
) -> None:
    """Checks a backup, then brings it back into an empty database.

    Example: gamegen restore s3://backups/worlds --database postgresql://localhost/worlds
    """
    from gamegen.service.backup import restore as restoring
    from gamegen.service.database.embedded import reachable_database
    from gamegen.storage.encryption import open_store

    source = open_store(folder)
    if check:
        with _bars() as progress:
            name, manifest = restoring.check(source, name, progress)
        print(f"{name} is whole: {manifest.num_rows} rows and {manifest.num_objects} objects")
        return
    with reachable_database(database) as url, _bars() as progress:
        name, manifest = restoring.restore(source, name, url, open_store(store), progress)
    print(f"{name} is back: {manifest.num_rows} rows and {manifest.num_objects} objects")


@contextmanager
def _bars() -> Iterator[saving.Progress]:
    """A bar for each thing that is done; on the error output, so that the last line can be read by a program."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield progress
