"""Removal of expired clips, old orders and orphaned objects.

Each step can be interrupted anywhere and repeated: objects are removed before the rows that refer to them, so that none
is forgotten, and removing a missing object is no error.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, func, insert, literal, or_, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gamegen.service.database.tables import checkpoints, events, generations
from gamegen.service.orders.referenced_objects import is_final
from gamegen.service.orders.states import State
from gamegen.service.retention.orphans import OrphanRemover
from gamegen.service.retention.removal import ObjectRemover
from gamegen.service.retention.settings import RemovedCounts, RetentionSettings
from gamegen.storage.interface import ObjectStore

_log = logging.getLogger(__name__)
_LOCK = 0x67616D66
"""Advisory lock: one run at a time, however many replicas schedule it."""
_NOTIFY = text("select pg_notify('gamegen_videos', line) from unnest(cast(:lines as text[])) line")


@dataclass(frozen=True)
class _Page:
    """The number of rows that a step has dealt with, and what the next one begins after."""

    removed: int
    last: Any


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
        # The lock ends with its transaction: one of a session would stay behind in a pooler's connection for ever.
        async with self._engine.connect() as lock:
            if not await lock.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
                return None
            async with self._engine.connect() as connection:
                return await self._run(connection, is_sweeping)

    async def _run(self, connection: AsyncConnection, is_sweeping: bool) -> RemovedCounts:
        remover = ObjectRemover(self._store)
        removed = RemovedCounts(
            checkpoints=await self._paged(connection, remover, self._remove_checkpoints),
            expired=await self._repeated(connection, self._expire),
            clips=await self._paged(connection, remover, self._remove_clips),
            orders=await self._repeated(connection, self._delete_orders),
        )
        if is_sweeping:
            orphans = OrphanRemover(connection, self._store, remover, self._settings)
            removed = replace(
                removed,
                inputs=await orphans.remove_inputs(),
                orphans=await orphans.remove_files(),
                unfinished_uploads=await asyncio.to_thread(
                    self._store.remove_unfinished, self._settings.unnamed_s
                ),
            )
        if remover.not_removed:
            _log.warning("%s", remover.reason)
        return replace(removed, not_removed=remover.not_removed, reason=remover.reason)

    async def _paged(
        self,
        connection: AsyncConnection,
        remover: ObjectRemover,
        step: Callable[[AsyncConnection, ObjectRemover, Any], Awaitable[_Page | None]],
    ) -> int:
        """Repeats a step, each time with the rows after those of the last: some may stay because their files do."""
        count, after = 0, None
        while page := await step(connection, remover, after):
            await connection.commit()
            count, after = count + page.removed, page.last
        await connection.commit()
        return count

    async def _repeated(
        self, connection: AsyncConnection, step: Callable[[AsyncConnection], Awaitable[int]]
    ) -> int:
        count = 0
        while found := await step(connection):
            await connection.commit()
            count += found
        await connection.commit()
        return count

    async def _remove_checkpoints(
        self, connection: AsyncConnection, remover: ObjectRemover, after: tuple[str, int] | None
    ) -> _Page | None:
        identity = tuple_(checkpoints.c.generation_id, checkpoints.c.step)
        finished = (
            select(checkpoints.c.generation_id, checkpoints.c.step, checkpoints.c.key)
            .join(generations)
            .where(is_final())
            .order_by(checkpoints.c.generation_id, checkpoints.c.step)
            .limit(self._settings.batch)
        )
        if after is not None:
            finished = finished.where(identity > tuple_(*map(literal, after)))
        rows = (await connection.execute(finished)).all()
        if not rows:
            return None
        stay = await remover.remove([row.key for row in rows])
        gone = [(row.generation_id, row.step) for row in rows if row.key not in stay]
        await connection.execute(delete(checkpoints).where(identity.in_(gone)))
        return _Page(len(gone), (rows[-1].generation_id, rows[-1].step))

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

    async def _remove_clips(
        self, connection: AsyncConnection, remover: ObjectRemover, after: str | None
    ) -> _Page | None:
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
        if after is not None:
            due = due.where(generations.c.id > after)
        rows = (await connection.execute(due)).all()
        if not rows:
            return None
        ended = [row for row in rows if not row[3]]
        stay = await remover.remove(
            [key for row in ended for key in (row.content_key, row.thumbnail_key) if key]
        )
        gone = [row.id for row in rows if row[3] or not stay & {row.content_key, row.thumbnail_key}]
        await connection.execute(
            update(generations).where(generations.c.id.in_(gone)).values(content_key=None, thumbnail_key=None)
        )
        return _Page(len(gone), rows[-1].id)

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
