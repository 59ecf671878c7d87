"""Admission of sessions to play, in the order in which they came."""

from __future__ import annotations

import time

from valkey.asyncio import Valkey

from deployments.sessions.limits import StoreLimits
from deployments.sessions.valkey_client import (
    LIVE,
    PLAYING,
    PREFIX,
    QUEUE,
    USER_PREFIX,
    load_script,
    session_keys,
)

_TICKETS = PREFIX + "tickets"
_ADMISSIONS = PREFIX + "given"
"""Times of the last admissions, the newest first."""
_MIN_RETRY_S = 5
_UNKNOWN_RETRY_S = 30
_MAX_RETRY_S = 120


class AdmissionQueue:
    """Queue of the sessions that wait to play; all ingress replicas share it."""

    def __init__(self, valkey: Valkey, limits: StoreLimits) -> None:
        self._valkey = valkey
        self._limits = limits
        self._admit = load_script(valkey, "may_live", "admit")

    async def admit(self, session_id: str, capacity: int) -> int:
        """Admits a session if fewer than `capacity` play: 0 if it may play, else its position in the queue from 1 on.

        To be asked again and again while it waits: a session that is silent for `lease_s` loses its position. Raises
        UserFullError for one that comes back while its user has `max_of_user` other live sessions.
        """
        now, limits = time.time(), self._limits
        position = await self._admit(
            keys=[LIVE, PLAYING, QUEUE, _TICKETS, _ADMISSIONS, session_keys(session_id)[0]],
            args=[
                session_id,
                now,
                now + limits.lease_s,
                capacity,
                limits.max_of_user,
                USER_PREFIX,
                limits.kept_ms,
            ],
        )
        if position < 0:
            raise limits.user_full()
        return int(position)

    async def retry_after_s(self, position: int = 1) -> int:
        """Seconds until the session at a position may be admitted, estimated from the last admissions."""
        admitted = [float(at) for at in await self._valkey.lrange(_ADMISSIONS, 0, -1)]  # type: ignore[misc]
        if not admitted:
            return _UNKNOWN_RETRY_S
        # The time since the last one counts: the longer nobody leaves, the less soon somebody will.
        wait_s = position * (time.time() - admitted[-1]) / len(admitted)
        return round(min(max(wait_s, _MIN_RETRY_S), _MAX_RETRY_S))

    async def counts(self) -> dict[str, int]:
        """Numbers of sessions that are `live` (played, queued or about to begin), `playing` and `queued` just now."""
        now = time.time()
        async with self._valkey.pipeline(transaction=True) as pipe:
            pipe.zcount(LIVE, now, "inf")
            pipe.zcount(PLAYING, now, "inf")
            pipe.zcard(QUEUE)
            live, playing, queued = await pipe.execute()
        return {"live": live, "playing": playing, "queued": queued}
