"""Journal of one claimed session: sends its log to the session store chunk by chunk."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import NoReturn

from valkey.exceptions import ValkeyError

from deployments.observability.play_metrics import CHUNKS_HELD_BACK, STORE_COMMIT
from deployments.sessions.session_record import Counters, LoggedChunk, SessionRecord, State
from deployments.sessions.store import SessionStore
from gamegen.sessions.log import VideoPrompt, pack_controls

logger = logging.getLogger("ray.serve")

RENEW_INTERVAL_S = 1.0
"""Between two renewals of a session's lease: far less than the lease, `StoreLimits.lease_s`, lasts."""
_RETRY_S = 3.0
"""Pause before a store that did not answer is asked again: each attempt holds a chunk up."""


class SessionJournal:
    """Writes the log of one claimed session.

    While the store does not answer, chunks are held back until it does: nobody else can claim the session meanwhile. A
    store that comes back empty is given the whole record again.
    """

    def __init__(self, store: SessionStore, record: SessionRecord) -> None:
        self._store = store
        self._record = record
        self._pending: list[LoggedChunk] = []
        self._snapshot: tuple[int, bytes] | None = None
        self._num_reported = 0
        self._is_released = False
        self._flush_lock = asyncio.Lock()
        self._retry_at_s = 0.0
        self.state: State = "playing"
        self.frames_sent = record.frames_sent
        self.frames_dropped = record.frames_dropped

    @property
    def record(self) -> SessionRecord:
        """The session with all chunks so far, held back or not."""
        return self._record

    @property
    def num_held_back(self) -> int:
        """Number of chunks that the store has not taken yet."""
        return len(self._pending)

    @property
    def num_logged(self) -> int:
        """Number of the session's chunks that the store has taken."""
        return self._record.version - len(self._pending)

    def add(self, chunk: LoggedChunk, snapshot: bytes | None = None) -> None:
        """Enters a chunk; `snapshot` is of the world before it."""
        record = self._record
        self._pending.append(chunk)
        self._record = dataclasses.replace(
            record,
            version=record.version + 1,
            controls=record.controls + pack_controls([chunk.control]),
            spoken=[*record.spoken, *chunk.spoken] if chunk.spoken else record.spoken,
            followed=[*record.followed, *chunk.followed] if chunk.followed else record.followed,
        )
        if snapshot is not None:
            self._snapshot = record.version, snapshot
            self._record = dataclasses.replace(
                self._record, snapshot=snapshot, snapshot_version=record.version
            )

    def keep(self, prompt: VideoPrompt) -> None:
        """Adds a video prompt that the store has already; it is restored with the record if the store loses both."""
        prompts = {**self._record.video_prompts, prompt.id: prompt}
        self._record = dataclasses.replace(self._record, video_prompts=prompts)

    async def flush(self) -> None:
        """Sends what is held back and renews the session's lease.

        A store that does not answer leaves chunks held back, see `num_held_back`. Raises SessionMovedError or
        SessionGoneError if the session is not this owner's any more.
        """
        async with self._flush_lock:
            if time.monotonic() < self._retry_at_s:
                return
            try:
                await self._send()
            except (ValkeyError, OSError) as error:
                self._retry_at_s = time.monotonic() + _RETRY_S
                logger.warning("session %s goes on unlogged: %s", self._record.id, error)
            finally:
                self._report_held_back(0 if self._is_released else len(self._pending))

    async def renew_lease(self) -> NoReturn:
        """Flushes every `RENEW_INTERVAL_S` until it is cancelled; raises what `flush` raises."""
        while True:
            await asyncio.sleep(RENEW_INTERVAL_S)
            await self.flush()

    async def release(self) -> None:
        """Ends the journal and releases the session for the next claim; chunks that are held back are lost.

        If the store does not answer, the session's lease ends by itself.
        """
        # A flush that is still under way must not report what nobody will send any more.
        self._is_released = True
        self._report_held_back(0)
        try:
            await self._store.release(self._record)
        except (ValkeyError, OSError) as error:
            logger.warning("session %s could not be released, its lease will end: %s", self._record.id, error)

    def _report_held_back(self, number: int) -> None:
        if number != self._num_reported:
            CHUNKS_HELD_BACK.add(number - self._num_reported)
            self._num_reported = number

    async def _send(self) -> None:
        chunks, snapshot, record = [*self._pending], self._snapshot, self._record
        counters = Counters(self.state, self.frames_sent, self.frames_dropped)
        start = time.monotonic()
        try:
            await self._store.commit(
                record,
                since=record.version - len(chunks),
                chunks=chunks,
                counters=counters,
                snapshot=snapshot,
            )
            STORE_COMMIT.observe(time.monotonic() - start)
        except LookupError as error:
            # A session that was deleted is a KeyError, and so a LookupError too.
            if isinstance(error, KeyError):
                raise
            logger.warning("%s: it is given all of them again", error)
            await self._store.restore(record)
        del self._pending[: len(chunks)]
        if self._snapshot is snapshot:
            self._snapshot = None
