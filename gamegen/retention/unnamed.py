"""Objects that no row names, or none any more: inputs, and what a worker uploaded that died before it said so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gamegen.database.tables import checkpoints, generations
from gamegen.retention.settings import RetentionSettings
from gamegen.storage.interface import Entry, ObjectStore
from gamegen.videos.named_objects import (
    INPUTS_PREFIX,
    VIDEOS_PREFIX,
    named_files,
    needed_inputs,
)
from gamegen.videos.states import FINAL


class Unnamed:
    """Looks through a store, a batch at a time, and asks the database about what is old enough."""

    def __init__(self, connection: AsyncConnection, store: ObjectStore, settings: RetentionSettings) -> None:
        self._connection, self._store, self._settings = connection, store, settings

    async def remove_inputs(self) -> int:
        """Pictures and videos that no order needs any more."""
        count = 0
        async for keys in self._old_keys(INPUTS_PREFIX):
            needed = set(await self._connection.scalars(needed_inputs(keys)))
            count += await self._remove([key for key in keys if key not in needed])
        return count

    async def remove_files(self) -> int:
        """Clips, thumbnails and checkpoints that no order names."""
        count = 0
        async for keys in self._old_keys(VIDEOS_PREFIX):
            doubtful = await self._without_owner(keys)
            # Another order may have been given the result. To look for it is slow, and seldom needed.
            named = set(await self._connection.scalars(named_files(doubtful))) if doubtful else set()
            count += await self._remove([key for key in doubtful if key not in named])
        return count

    async def _without_owner(self, keys: list[str]) -> list[str]:
        """Those that the order in whose folder they are does not name, or that has ended or is not there."""
        owners = {key.split("/")[1] for key in keys}
        rows = (
            await self._connection.execute(
                select(
                    generations.c.id,
                    generations.c.state,
                    generations.c.content_key,
                    generations.c.thumbnail_key,
                ).where(generations.c.id.in_(owners))
            )
        ).all()
        steps = select(checkpoints.c.key).where(checkpoints.c.generation_id.in_(owners))
        named = {key for row in rows for key in (row.content_key, row.thumbnail_key)}
        named |= set(await self._connection.scalars(steps))
        # Whoever works on it may be about to name them.
        unfinished = {row.id for row in rows if row.state not in FINAL}
        return [key for key in keys if key not in named and key.split("/")[1] not in unfinished]

    async def _remove(self, keys: list[str]) -> int:
        await self._connection.commit()
        return await asyncio.to_thread(self._store.delete_many, keys)

    async def _old_keys(self, prefix: str) -> AsyncIterator[list[str]]:
        before = time.time() - self._settings.unnamed_s
        entries = self._store.entries(prefix)
        while batch := await asyncio.to_thread(_next, entries, self._settings.batch):
            if keys := [entry.key for entry in batch if entry.modified_at <= before]:
                yield keys


def _next(entries: Iterator[Entry], count: int) -> list[Entry]:
    return list(islice(entries, count))
