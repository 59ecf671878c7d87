"""An owner's side of a session's log: what was drawn goes to the store chunk by chunk."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time

from valkey.exceptions import ValkeyError

from deployments.metrics import CHUNKS_HELD_BACK, STORE_COMMIT
from deployments.session_record import Counters, Entry, SessionRecord, State
from deployments.session_store import SessionStore
from gamegen.session_log import VideoPrompt, pack_controls

logger = logging.getLogger("ray.serve")

_RETRY_S = 3.0
"""Whether a store that did not answer does again is tried this often: each trial holds a chunk up."""


class SessionJournal:
    """Writes the log of one claimed session.

    While the store does not answer, play goes on and chunks are held back until it does: nobody else can claim the
    session meanwhile. A store that comes back empty is given the whole record again.
    """

    def __init__(self, store: SessionStore, record: SessionRecord) -> None:
        self._store = store
        self._record = record
        self._pending: list[Entry] = []
        self._snapshot: tuple[int, bytes] | None = None
        self._num_told = 0
        self._turn = asyncio.Lock()
        self._retry_at_s = 0.0
        self.state: State = "playing"
        self.frames_sent = record.frames_sent
        self.frames_dropped = record.frames_dropped

    @property
    def record(self) -> SessionRecord:
        """The session with all that was logged so far, held back or not."""
        return self._record

    @property
    def num_held_back(self) -> int:
        """Chunks that the store has not taken yet."""
        return len(self._pending)

    def add(self, entry: Entry, snapshot: bytes | None = None) -> None:
        """Enters a chunk; `snapshot` is of the world after it."""
        record = self._record
        version = record.version + 1
        self._pending.append(entry)
        self._record = dataclasses.replace(
            record,
            version=version,
            controls=record.controls + pack_controls([entry.control]),
            spoken=[*record.spoken, *entry.spoken] if entry.spoken else record.spoken,
            followed=[*record.followed, *entry.followed] if entry.followed else record.followed,
        )
        if snapshot is not None:
            self._snapshot = version, snapshot
            self._record = dataclasses.replace(self._record, snapshot=snapshot, snapshot_version=version)

    def keep(self, prompt: VideoPrompt) -> None:
        """Knows a video prompt of the session, which is entered with it again if the store loses both."""
        prompts = {**self._record.video_prompts, prompt.id: prompt}
        self._record = dataclasses.replace(self._record, video_prompts=prompts)

    async def flush(self) -> None:
        """Sends what is held back and tells that the owner is there.

        Raises SessionMovedError or SessionGoneError: the session is not this owner's any more.
        """
        async with self._turn:
            if time.monotonic() < self._retry_at_s:
                return
            try:
                await self._send()
            except (ValkeyError, OSError) as error:
                self._retry_at_s = time.monotonic() + _RETRY_S
                logger.warning("session %s goes on unlogged: %s", self._record.id, error)
            finally:
                self._tell_held_back(len(self._pending))

    def close(self) -> None:
        """Nothing is logged any more; what is held back is lost."""
        self._tell_held_back(0)

    def _tell_held_back(self, number: int) -> None:
        if number != self._num_told:
            CHUNKS_HELD_BACK.add(number - self._num_told)
            self._num_told = number

    async def _send(self) -> None:
        entries, snapshot, record = [*self._pending], self._snapshot, self._record
        counters = Counters(self.state, self.frames_sent, self.frames_dropped)
        since = record.version - len(entries)
        start = time.monotonic()
        try:
            await self._store.commit(record, since, entries, counters, snapshot)
            STORE_COMMIT.observe(time.monotonic() - start)
        except LookupError as error:
            # A session that was deleted is a KeyError, and so a LookupError too.
            if isinstance(error, KeyError):
                raise
            logger.warning("%s: it is given all of them again", error)
            await self._store.restore(record)
        del self._pending[: len(entries)]
        if self._snapshot is snapshot:
            self._snapshot = None
