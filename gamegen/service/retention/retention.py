"""Removal of expired clips, old orders and orphaned objects.

Each step can be interrupted anywhere and repeated: objects are removed before the rows that refer to them, so that none
is forgotten, and removing a missing object is no error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import delete, func, insert, or_, select, text, tuple_, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gamegen.service.database.tables import checkpoints, events, generations
from gamegen.service.orders.referenced_objects import is_final
from gamegen.service.orders.states import State
from gamegen.service.retention.orphans import OrphanRemover
from gamegen.service.retention.settings import RemovedCounts, RetentionSettings
from gamegen.storage.interface import ObjectStore

_LOCK = 0x67616D66
"""Advisory lock: one run at a time, however many replicas schedule it."""
_NOTIFY = text("select pg_notify('gamegen_videos', line) from unnest(cast(:lines as text[])) line")


class Retention:
    """Applies the retention `settings` to a database and its object store."""

    def __init__(
        self, engine: AsyncEngine, store: ObjectStore, settings: RetentionSettings | None = None
    ) -> None:
        self._engine = engine
        self._store = store
        self._settings = settings or RetentionSettings()

    async def run(self, is_sweeping: bool = True) -> RemovedCounts | None:
        """Removes everything that is due; None while another run is in progress.

        Without `is_sweeping` orphaned objects are left, which take a listing of the whole store to find: checkpoints
        can then be removed every minute, and orphans once a day.
        """
        async with self._engine.connect() as connection:
            try:
                if not await connection.scalar(select(func.pg_try_advisory_lock(_LOCK))):
                    return None
                await connection.commit()
                return await self._run(connection, is_sweeping)
            finally:
                # Closing the connection frees the lock, even after a cancellation in the middle of a statement. The
                # server takes a moment to notice, in which the next run would be refused: where it can be, it is told.
                with suppress(SQLAlchemyError):
                    await connection.rollback()
                    await connection.scalar(select(func.pg_advisory_unlock_all()))
                await connection.invalidate()

    async def _run(self, connection: AsyncConnection, is_sweeping: bool) -> RemovedCounts:
        removed = RemovedCounts(
            checkpoints=await self._repeated(connection, self._remove_checkpoints),
            expired=await self._repeated(connection, self._expire),
            clips=await self._repeated(connection, self._remove_clips),
            orders=await self._repeated(connection, self._delete_orders),
        )
        if not is_sweeping:
            return removed
        remover = OrphanRemover(connection, self._store, self._settings)
        return replace(
            removed,
            inputs=await remover.remove_inputs(),
            orphans=await remover.remove_files(),
            unfinished_uploads=await asyncio.to_thread(
                self._store.remove_unfinished, self._settings.unnamed_s
            ),
        )

    async def _repeated(
        self, connection: AsyncConnection, step: Callable[[AsyncConnection], Awaitable[int]]
    ) -> int:
        count = 0
        while found := await step(connection):
            await connection.commit()
            count += found
        await connection.commit()
        return count

    async def _remove_checkpoints(self, connection: AsyncConnection) -> int:
        finished = (
            select(checkpoints.c.generation_id, checkpoints.c.step, checkpoints.c.key)
            .join(generations)
            .where(is_final())
            .limit(self._settings.batch)
        )
        rows = (await connection.execute(finished)).all()
        await self._delete([row.key for row in rows])
        identity = tuple_(checkpoints.c.generation_id, checkpoints.c.step)
        await connection.execute(
            delete(checkpoints).where(identity.in_([(row.generation_id, row.step) for row in rows]))
        )
        return len(rows)

    async def _expire(self, connection: AsyncConnection) -> int:
        due = (
            select(generations.c.id)
            .where(
                generations.c.state == State.COMPLETED,
                generations.c.finished_at < func.now() - self._settings.content,
                ~generations.c.is_kept,
                generations.c.expired_at.is_(None),
            )
            .limit(self._settings.batch)
            .with_for_update(skip_locked=True)
        )
        changed = (
            update(generations)
            .where(generations.c.id.in_(due.scalar_subquery()))
            .values(expired_at=func.now())
            .returning(generations.c.id, generations.c.state, generations.c.fence)
        )
        rows = (await connection.execute(changed)).all()
        if rows:
            await _log_expired(connection, rows)
        return len(rows)

    async def _remove_clips(self, connection: AsyncConnection) -> int:
        # Orders of equal content share one clip, whose files are removed with the last of them. An order that was given
        # the clip while it expired has its row by the end of the grace period.
        other = generations.alias()
        before = func.now() - self._settings.grace
        is_shared = (
            select(other.c.id)
            .where(
                other.c.content_hash == generations.c.content_hash,
                other.c.state == State.COMPLETED,
                other.c.content_key == generations.c.content_key,
                other.c.id != generations.c.id,
                or_(
                    other.c.expired_at.is_(None),
                    other.c.expired_at >= before,
                    other.c.id > generations.c.id,
                ),
            )
            .exists()
        )
        due = (
            select(generations.c.id, generations.c.content_key, generations.c.thumbnail_key, is_shared)
            .where(generations.c.expired_at < before, generations.c.content_key.is_not(None))
            .order_by(generations.c.id)
            .limit(self._settings.batch)
        )
        rows = (await connection.execute(due)).all()
        ended = [row for row in rows if not row[3]]
        await self._delete([key for row in ended for key in (row.content_key, row.thumbnail_key) if key])
        await connection.execute(
            update(generations)
            .where(generations.c.id.in_([row.id for row in rows]))
            .values(content_key=None, thumbnail_key=None)
        )
        return len(rows)

    async def _delete_orders(self, connection: AsyncConnection) -> int:
        due = (
            select(generations.c.id)
            .where(
                is_final(),
                generations.c.finished_at < func.now() - self._settings.metadata,
                ~generations.c.is_kept,
                # Its files are removed.
                generations.c.content_key.is_(None),
            )
            .limit(self._settings.batch)
            .with_for_update(skip_locked=True)
        )
        # Deletes its events, verdicts and deliveries too; the ledger keeps its price.
        gone = await connection.execute(
            delete(generations).where(generations.c.id.in_(due.scalar_subquery()))
        )
        return gone.rowcount

    async def _delete(self, keys: list[str]) -> None:
        if keys:
            await asyncio.to_thread(self._store.delete_many, keys)


async def _log_expired(connection: AsyncConnection, rows: Any) -> None:
    written = await connection.execute(
        insert(events).returning(events.c.id, events.c.generation_id, events.c.state),
        [
            {"generation_id": row.id, "kind": "expired", "state": row.state, "fence": row.fence, "data": {}}
            for row in rows
        ],
    )
    lines = [
        json.dumps({"id": event.generation_id, "event": event.id, "state": event.state}) for event in written
    ]
    await connection.execute(_NOTIFY, {"lines": lines})
