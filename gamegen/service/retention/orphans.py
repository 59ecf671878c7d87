"""Removal of orphaned objects: unneeded inputs, and uploads of workers that died before they recorded them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gamegen.service.database.tables import checkpoints, generations
from gamegen.service.orders.referenced_objects import (
    INPUTS_PREFIX,
    VIDEOS_PREFIX,
    referenced_files,
    referenced_inputs,
)
from gamegen.service.orders.states import FINAL
from gamegen.service.retention.removal import ObjectRemover
from gamegen.service.retention.settings import RetentionSettings
from gamegen.storage.interface import ObjectEntry, ObjectStore


class OrphanRemover:
    """Lists a store in batches, and removes objects that are old and that no row refers to."""

    def __init__(
        self,
        connection: AsyncConnection,
        store: ObjectStore,
        remover: ObjectRemover,
        settings: RetentionSettings,
    ) -> None:
        self._connection = connection
        self._store = store
        self._remover = remover
        self._settings = settings

    async def remove_inputs(self) -> int:
        """Removes images and source videos that no order needs; returns their number."""
        count = 0
        async for keys in self._old_keys(INPUTS_PREFIX):
            needed = set(await self._connection.scalars(referenced_inputs(keys)))
            count += await self._remove([key for key in keys if key not in needed])
        return count

    async def remove_files(self) -> int:
        """Removes clips, thumbnails and checkpoints that no order refers to; returns their number."""
        count = 0
        async for keys in self._old_keys(VIDEOS_PREFIX):
            doubtful = await self._without_owner(keys)
            # Another order may share the clip. That query is slow, and seldom needed.
            named = set(await self._connection.scalars(referenced_files(doubtful))) if doubtful else set()
            count += await self._remove([key for key in doubtful if key not in named])
        return count

    async def _without_owner(self, keys: list[str]) -> list[str]:
        """Keys that the order of their folder does not refer to; none of unfinished orders."""
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
        # The worker of an unfinished order may be about to record them.
        unfinished = {row.id for row in rows if row.state not in FINAL}
        return [key for key in keys if key not in named and key.split("/")[1] not in unfinished]

    async def _remove(self, keys: list[str]) -> int:
        await self._connection.commit()
        return len(keys) - len(await self._remover.remove(keys))

    async def _old_keys(self, prefix: str) -> AsyncIterator[list[str]]:
        before = time.time() - self._settings.unnamed_s
        entries = self._store.entries(prefix)
        while batch := await asyncio.to_thread(_next, entries, self._settings.batch):
            if keys := [entry.key for entry in batch if entry.modified_at <= before]:
                yield keys


def _next(entries: Iterator[ObjectEntry], count: int) -> list[ObjectEntry]:
    return list(islice(entries, count))
