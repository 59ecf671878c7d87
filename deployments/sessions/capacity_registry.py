"""Registry of how many sessions each world replica can hold."""

from __future__ import annotations

import time

from valkey.asyncio import Valkey

from deployments.sessions.valkey_client import PREFIX

_OFFERS = PREFIX + "places"
_REPLICAS = PREFIX + "worlds"
_CACHED_S = 1.0


class CapacityRegistry:
    """Offers of world replicas, each valid for some seconds."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey

    async def offer(self, replica: str, num_sessions: int, lasting_s: float) -> None:
        """Offers to hold `num_sessions` for the next `lasting_s` seconds; 0 takes the replica's offer back."""
        async with self._valkey.pipeline(transaction=True) as pipe:
            if num_sessions:
                pipe.hset(_OFFERS, replica, str(num_sessions))
                pipe.zadd(_REPLICAS, {replica: time.time() + lasting_s})
            else:
                pipe.hdel(_OFFERS, replica)
                pipe.zrem(_REPLICAS, replica)
            await pipe.execute()

    async def total(self) -> int:
        """Sessions that all world replicas together can hold."""
        replicas = await self._valkey.zrangebyscore(_REPLICAS, time.time(), "inf")
        if not replicas:
            return 0
        offers: list[bytes | None] = await self._valkey.hmget(_OFFERS, replicas)  # type: ignore[misc]
        return sum(int(offered or 0) for offered in offers)


class PlayCapacity:
    """Number of sessions that may play at once: what world replicas offer, at most `max_sessions`."""

    def __init__(self, registry: CapacityRegistry, max_sessions: int) -> None:
        self._registry = registry
        self._max_sessions = max_sessions
        self._total = 0
        self._read_again_s = 0.0

    async def current(self) -> int:
        """The number just now; read from the store at most once a second."""
        now = time.monotonic()
        if now > self._read_again_s:
            self._total, self._read_again_s = await self._registry.total(), now + _CACHED_S
        return min(self._total, self._max_sessions)
