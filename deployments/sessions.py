"""The sessions of one ingress process: how many there may be, and when one ends by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from deployments.connection import CLOSE_ENDED, CLOSE_IDLE, CLOSE_TAKEN_OVER, Connection
from deployments.errors import ApiError
from deployments.player import Player
from deployments.schemas import NewSession
from deployments.settings import IngressSettings
from gamegen.controls import FPS

logger = logging.getLogger("ray.serve")

_SWEEP_INTERVAL_S = 1.0


@dataclass
class Session:
    """A world, its player's socket if there is one, and since when there is none."""

    id: str
    request: NewSession
    size: tuple[int, int]
    player: Player
    connection: Connection | None = None
    detached_since_s: float = field(default_factory=time.monotonic)

    @property
    def state(self) -> Literal["waiting", "playing", "recovering"]:
        """`waiting` without a socket, `recovering` while a lost replica is replaced, else `playing`."""
        if self.connection is None:
            return "waiting"
        return "recovering" if self.player.world.is_recovering else "playing"

    def address(self) -> dict[str, Any]:
        """Where and how this session is played, the fields of `SessionCreated`."""
        width, height = self.size
        stream_url = f"/v1/sessions/{self.id}/stream"
        return {"id": self.id, "stream_url": stream_url, "width": width, "height": height, "fps": FPS}

    async def attach(self, connection: Connection) -> None:
        """Gives the session to a socket; the one that had it is closed."""
        previous, self.connection = self.connection, connection
        self.player.attach(connection)
        if previous:
            await previous.close(CLOSE_TAKEN_OVER, "another connection took this session over")

    def detach(self, connection: Connection) -> None:
        """Leaves the session waiting if this socket still had it."""
        if self.connection is connection:
            self.connection = None
            self.detached_since_s = time.monotonic()
        self.player.detach(connection)

    def ending(self, settings: IngressSettings) -> tuple[int, str] | None:
        """A close code and reason if the session should end now."""
        now = time.monotonic()
        if self.player.failed:
            return CLOSE_ENDED, self.player.failed
        if self.connection is None:
            left = now - self.detached_since_s > settings.resume_timeout_s
            return (CLOSE_ENDED, "nobody came back") if left else None
        if now - self.connection.last_active_s > settings.idle_timeout_s:
            return CLOSE_IDLE, f"nothing was done for {settings.idle_timeout_s:g} s"
        return None


class SessionBook:
    """All sessions by id."""

    def __init__(self, settings: IngressSettings) -> None:
        self._settings = settings
        self._sessions: dict[str, Session] = {}
        self._num_reserved = 0
        self._sweeper: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_playing(self) -> int:
        """Sessions with a socket."""
        return sum(session.connection is not None for session in self._sessions.values())

    def paces(self) -> list[dict[str, float]]:
        """The pace of each session that is played, see `ChunkClock.facts`."""
        return [s.player.clock.facts() for s in self._sessions.values() if s.connection]

    def reserve(self) -> None:
        """Takes a place for a session that is about to begin; raises ApiError (429) when all are taken."""
        limit = self._settings.max_sessions
        if len(self._sessions) + self._num_reserved >= limit:
            message = f"all {limit} sessions are taken: close one or try again in a minute"
            raise ApiError(429, "too_many_sessions", message, retry_after_s=30)
        self._num_reserved += 1

    def unreserve(self) -> None:
        """Gives the place back, or turns it into the session just added."""
        self._num_reserved -= 1

    def add(self, session: Session) -> None:
        """Enters a session and starts its loops."""
        self._sessions[session.id] = session
        session.player.start()
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep())

    def get(self, session_id: str) -> Session:
        """A session; raises ApiError (404)."""
        session = self._sessions.get(session_id)
        if session is None:
            message = f"no session {session_id!r}: it ended or never was, begin one with POST /v1/sessions"
            raise ApiError(404, "unknown_session", message)
        return session

    async def end(self, session_id: str, code: int, reason: str) -> None:
        """Ends a session and closes its socket; raises ApiError (404)."""
        session = self.get(session_id)
        del self._sessions[session_id]
        if session.connection:
            await session.connection.close(code, reason)
        await session.player.stop()

    async def _sweep(self) -> None:
        while self._sessions:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            for session in [*self._sessions.values()]:
                ending = session.ending(self._settings)
                if ending and session.id in self._sessions:
                    logger.info("session %s ends: %s", session.id, ending[1])
                    await self.end(session.id, *ending)
