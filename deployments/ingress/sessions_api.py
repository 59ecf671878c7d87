"""The session service: the REST operations on sessions, and the streams of one ingress replica."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from valkey.exceptions import ValkeyError

from deployments.errors import ApiError, user_full
from deployments.ingress.schemas import Branch, SessionList, SessionState
from deployments.observability import play_metrics
from deployments.sessions.admission_queue import AdmissionQueue
from deployments.sessions.capacity_registry import PlayCapacity
from deployments.sessions.limits import StoreLimits
from deployments.sessions.session_record import SessionRecord
from deployments.sessions.store import SessionStore
from deployments.sessions.store_errors import (
    PromptsFullError,
    SessionGoneError,
    StoreFullError,
    UserFullError,
)
from deployments.settings import ServeSettings
from deployments.stream.session_stream import SessionStream, address
from gamegen.sessions.log import VideoPrompt, WorldSpec, pack_controls
from gamegen.sessions.log_file import MAX_VIDEO_PROMPTS

logger = logging.getLogger("ray.serve")

_MIGRATION_INTERVAL_S = 0.05
_MAX_REDRAWN_CHUNKS = 360
"""A minute of play, which an idle replica redraws in about ten seconds."""


class SessionService:
    """Creates, shows and deletes sessions, and keeps the open streams of this replica."""

    def __init__(
        self,
        *,
        settings: ServeSettings,
        store: SessionStore,
        queue: AdmissionQueue,
        capacity: PlayCapacity,
    ) -> None:
        play_metrics.begin_ingress()
        self._settings = settings
        self._store = store
        self._queue = queue
        self._capacity = capacity
        self._streams: dict[int, SessionStream] = {}

    @staticmethod
    def store_limits(settings: ServeSettings) -> StoreLimits:
        """The session store's limits in the settings."""
        ingress = settings.ingress
        return StoreLimits(kept_s=ingress.resume_timeout_s, max_of_user=ingress.max_sessions_per_user)

    async def create(self, spec: WorldSpec, first_chunks: int, user: str = "") -> tuple[SessionRecord, str]:
        """Creates a session; returns its record and its token. Raises ApiError (429, 503)."""
        record, token = SessionRecord.new(
            uuid.uuid4().hex, spec, user=await self._pseudonym(user), first_chunks=first_chunks
        )
        await self._enter(record)
        return record, token

    async def create_branch(self, branch: Branch, user: str = "") -> tuple[SessionRecord, str]:
        """Creates a session that continues a chunk of another one; raises ApiError (401, 404, 422, 429, 503)."""
        origin = await self.get(branch.session_id)
        if not origin.is_token(branch.resume_token):
            raise ApiError(401, "wrong_token", "branch: this is not the session's resume_token")
        chunk = origin.version if branch.chunk is None else branch.chunk
        try:
            log = origin.log().until(chunk)
        except ValueError as error:
            raise ApiError(422, "invalid_request", f"branch.{error}") from error
        has_snapshot = origin.snapshot is not None and origin.snapshot_version <= chunk
        if not has_snapshot and chunk > _MAX_REDRAWN_CHUNKS:
            message = (
                f"branch.chunk: {chunk} chunks would have to be drawn again and the limit is {_MAX_REDRAWN_CHUNKS}: "
                "branch off where the session stands, or use gamegen replay with its log"
            )
            raise ApiError(422, "invalid_request", message)
        whose = await self._pseudonym(user)
        fresh, token = SessionRecord.new(
            uuid.uuid4().hex, origin.spec, user=whose, first_chunks=origin.first_chunks
        )
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
            capacity = await self._capacity.current()
            try:
                await self._store.create(record, capacity + self._settings.ingress.max_queued)
            except StoreFullError as error:
                if not capacity:
                    message = "no world replica takes players yet: try again in a few seconds"
                    raise ApiError(503, "not_ready", message, retry_after_s=5) from error
                retry_s = await self._queue.retry_after_s()
                message = f"{error}: close a session or try again in {retry_s} s"
                raise ApiError(429, "too_many_sessions", message, retry_after_s=retry_s) from error
            except UserFullError as error:
                raise user_full(error) from error
        play_metrics.SESSIONS_BEGUN.add()

    async def get(self, session_id: str) -> SessionRecord:
        """A session with its log; raises ApiError (404, 503)."""
        with _store_errors(session_id):
            return await self._store.get(session_id)

    async def summary(self, session_id: str) -> SessionRecord:
        """A session without its log; raises ApiError (404, 503)."""
        with _store_errors(session_id):
            return await self._store.summary(session_id)

    async def listed(self, limit: int, offset: int, base_path: str) -> SessionList:
        """A page of sessions, the newest first; raises ApiError (503). Their streams are below `base_path`."""
        with _store_errors():
            records, total = await self._store.listed(limit, offset)
        return SessionList(sessions=[state_of(record, base_path) for record in records], total=total)

    async def check_token(self, session_id: str, token: str) -> None:
        """Raises ApiError (401, 404, 503) unless this is the session's token."""
        if not (await self.summary(session_id)).is_token(token):
            raise ApiError(401, "wrong_token", "this is not the session's resume_token")

    async def keep_video_prompt(self, session_id: str, prompt: VideoPrompt) -> None:
        """Stores a video prompt for a session's player; raises ApiError (404, 409, 503)."""
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
        play_metrics.SESSIONS_ENDED.add(tag="deleted")

    async def counts(self) -> dict[str, int]:
        """Numbers of sessions on all replicas, and the limits; raises ApiError (503)."""
        with _store_errors():
            counts = await self._queue.counts()
            places = await self._capacity.current()
        limit = self._settings.ingress.max_sessions
        return {**counts, "here": len(self._streams), "places": places, "limit": limit}

    @contextmanager
    def playing(self, stream: SessionStream) -> Iterator[None]:
        """Registers a stream while it runs."""
        self._streams[id(stream)] = stream
        try:
            yield
        finally:
            del self._streams[id(stream)]

    def paces(self) -> list[dict[str, float]]:
        """The pace of each session that plays on this replica, see `ChunkClock.facts`."""
        return [stream.player.clock.facts() for stream in self._streams.values() if stream.player]

    async def migrate_all(self) -> None:
        """Migrates every player to another replica, one by one, so that they do not all arrive at once."""
        for stream in [*self._streams.values()]:
            stream.migrate()
            await asyncio.sleep(_MIGRATION_INTERVAL_S)


def state_of(record: SessionRecord, base_path: str) -> SessionState:
    """A session's public state; its stream's URL is below `base_path`."""
    values: dict[str, Any] = {
        **address(record, base_path),
        "prompt": record.spec.prompt,
        "perspective": record.spec.perspective,
        "seed": record.spec.seed,
        "model": record.spec.model,
        "created_s": record.created_s,
        "start": dataclasses.asdict(record.start),
        "state": record.state,
        "chunks": record.version,
        "instruction": record.instruction or None,
        "frames_sent": record.frames_sent,
        "frames_dropped": record.frames_dropped,
    }
    return SessionState(**values)


@contextmanager
def _store_errors(session_id: str = "") -> Iterator[None]:
    """Turns errors of the session store into ApiError (404, 503)."""
    try:
        yield
    except SessionGoneError as error:
        message = f"no session {session_id!r}: it has ended or never was, begin one with POST /v1/sessions"
        raise ApiError(404, "unknown_session", message) from error
    except (ValkeyError, OSError) as error:
        logger.error("the session store failed: %s", error)
        message = "the session store does not answer: try again in a few seconds"
        raise ApiError(503, "not_ready", message, retry_after_s=5) from error
