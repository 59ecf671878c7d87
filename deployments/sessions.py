"""The sessions that one ingress replica plays, and the REST side of all of them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from valkey.exceptions import ValkeyError

from deployments import metrics
from deployments.errors import ApiError, user_full
from deployments.schemas import Branch, SessionList, SessionState
from deployments.session_record import SessionRecord
from deployments.session_store import (
    PromptsFullError,
    SessionGoneError,
    SessionStore,
    StoreFullError,
    StoreLimits,
    UserFullError,
)
from deployments.settings import ServeSettings
from deployments.stream import Stream, address
from gamegen.session_file import MAX_VIDEO_PROMPTS
from gamegen.session_log import VideoPrompt, WorldSpec, pack_controls

logger = logging.getLogger("ray.serve")

_BETWEEN_MIGRATIONS_S = 0.05
_PLACES_KEPT_S = 1.0
_MOST_REDRAWN_CHUNKS = 360
"""A minute of play, which takes some ten seconds to draw again where nobody else plays."""


class SessionBook:
    """What the REST addresses say of sessions, and the streams of this replica."""

    def __init__(self, settings: ServeSettings, store: SessionStore) -> None:
        metrics.begin_ingress()
        self._settings = settings
        self._store = store
        self._streams: dict[int, Stream] = {}
        self._places = 0
        self._places_until_s = 0.0

    @staticmethod
    def store_limits(settings: ServeSettings) -> StoreLimits:
        """The store's limits that the settings ask for."""
        ingress = settings.ingress
        return StoreLimits(ingress.resume_timeout_s, max_of_user=ingress.max_sessions_per_user)

    async def create(self, spec: WorldSpec, first_chunks: int, user: str = "") -> tuple[SessionRecord, str]:
        """A new session and its token; raises ApiError (429, 503)."""
        record, token = SessionRecord.new(uuid.uuid4().hex, spec, await self._pseudonym(user), first_chunks)
        await self._enter(record)
        return record, token

    async def create_branch(self, branch: Branch, user: str = "") -> tuple[SessionRecord, str]:
        """A session that begins as another went; raises ApiError (401, 404, 422, 429, 503)."""
        origin = await self.get(branch.session_id)
        if not origin.is_token(branch.resume_token):
            raise ApiError(401, "wrong_token", "branch: this is not the session's resume_token")
        chunk = origin.version if branch.chunk is None else branch.chunk
        try:
            log = origin.log().until(chunk)
        except ValueError as error:
            raise ApiError(422, "invalid_request", f"branch.{error}") from error
        has_snapshot = origin.snapshot is not None and origin.snapshot_version <= chunk
        if not has_snapshot and chunk > _MOST_REDRAWN_CHUNKS:
            message = (
                f"branch.chunk: {chunk} chunks would have to be drawn again and the limit is {_MOST_REDRAWN_CHUNKS}: "
                "branch off where the session stands, or use gamegen replay with its log"
            )
            raise ApiError(422, "invalid_request", message)
        whose = await self._pseudonym(user)
        fresh, token = SessionRecord.new(uuid.uuid4().hex, origin.spec, whose, origin.first_chunks)
        record = dataclasses.replace(
            fresh,
            version=chunk,
            controls=pack_controls(log.controls),
            spoken=log.spoken,
            followed=log.followed,
            video_prompts=log.video_prompts,
        )
        if has_snapshot:
            record = dataclasses.replace(
                record, snapshot=origin.snapshot, snapshot_version=origin.snapshot_version
            )
        await self._enter(record)
        return record, token

    async def _pseudonym(self, user: str) -> str:
        with _store_errors():
            return await self._store.pseudonym(user)

    async def _enter(self, record: SessionRecord) -> None:
        with _store_errors():
            capacity = await self.capacity()
            try:
                await self._store.create(record, capacity + self._settings.ingress.max_queued)
            except StoreFullError as error:
                if not capacity:
                    message = "no world replica takes players yet: try again in a few seconds"
                    raise ApiError(503, "not_ready", message, retry_after_s=5) from error
                retry_s = await self._store.retry_after_s()
                message = f"{error}: close a session or try again in {retry_s} s"
                raise ApiError(429, "too_many_sessions", message, retry_s) from error
            except UserFullError as error:
                raise user_full(error) from error
        metrics.SESSIONS_BEGUN.add()

    async def get(self, session_id: str) -> SessionRecord:
        """A session with its log; raises ApiError (404, 503)."""
        with _store_errors(session_id):
            return await self._store.get(session_id)

    async def summary(self, session_id: str) -> SessionRecord:
        """A session without what grows; raises ApiError (404, 503)."""
        with _store_errors(session_id):
            return await self._store.summary(session_id)

    async def listed(self, limit: int, offset: int) -> SessionList:
        """Some sessions; raises ApiError (503)."""
        with _store_errors():
            records, total = await self._store.listed(limit, offset)
        return SessionList(sessions=[state_of(record) for record in records], total=total)

    async def check_token(self, session_id: str, token: str) -> None:
        """Raises ApiError (401, 404, 503) unless this is the session's token."""
        if not (await self.summary(session_id)).is_token(token):
            raise ApiError(401, "wrong_token", "this is not the session's resume_token")

    async def keep_video_prompt(self, session_id: str, prompt: VideoPrompt) -> None:
        """Keeps a video prompt for the session's player to follow; raises ApiError (404, 409, 503)."""
        with _store_errors(session_id):
            try:
                await self._store.keep_video_prompt(session_id, prompt, MAX_VIDEO_PROMPTS)
            except PromptsFullError as error:
                message = f"{error}: go on in a branch of it, which keeps those that were followed"
                raise ApiError(409, "too_many_video_prompts", message) from error

    async def delete(self, session_id: str) -> None:
        """Ends a session; raises ApiError (404, 503)."""
        with _store_errors(session_id):
            await self._store.delete(session_id)
        metrics.SESSIONS_ENDED.add(tag="deleted")

    async def counts(self) -> dict[str, int]:
        """Sessions everywhere; raises ApiError (503)."""
        with _store_errors():
            counts = await self._store.counts()
            places = await self.capacity()
        limit = self._settings.ingress.max_sessions
        return {**counts, "here": len(self._streams), "places": places, "limit": limit}

    async def capacity(self) -> int:
        """How many may play at once just now."""
        now = time.monotonic()
        if now > self._places_until_s:
            self._places, self._places_until_s = await self._store.places(), now + _PLACES_KEPT_S
        return min(self._places, self._settings.ingress.max_sessions)

    @contextmanager
    def playing(self, stream: Stream) -> Iterator[None]:
        """Enters a stream for as long as it runs."""
        self._streams[id(stream)] = stream
        try:
            yield
        finally:
            del self._streams[id(stream)]

    def paces(self) -> list[dict[str, float]]:
        """The pace of each session that is played here, see `ChunkClock.facts`."""
        return [stream.player.clock.facts() for stream in self._streams.values() if stream.player]

    async def migrate_all(self) -> None:
        """Sends every player elsewhere, one by one, so that they do not all arrive there at once."""
        for stream in [*self._streams.values()]:
            stream.migrate()
            await asyncio.sleep(_BETWEEN_MIGRATIONS_S)


def state_of(record: SessionRecord) -> SessionState:
    """A session as clients see it."""
    values: dict[str, Any] = {
        **address(record),
        "prompt": record.spec.prompt,
        "perspective": record.spec.perspective,
        "seed": record.spec.seed,
        "model": record.spec.model,
        "created_s": record.created_s,
        "state": record.state,
        "chunks": record.version,
        "instruction": record.instruction or None,
        "frames_sent": record.frames_sent,
        "frames_dropped": record.frames_dropped,
    }
    return SessionState(**values)


@contextmanager
def _store_errors(session_id: str = "") -> Iterator[None]:
    """The store's errors as answers."""
    try:
        yield
    except SessionGoneError as error:
        message = f"no session {session_id!r}: it has ended or never was, begin one with POST /v1/sessions"
        raise ApiError(404, "unknown_session", message) from error
    except (ValkeyError, OSError) as error:
        logger.error("the session store failed: %s", error)
        message = "the session store does not answer: try again in a few seconds"
        raise ApiError(503, "not_ready", message, retry_after_s=5) from error
