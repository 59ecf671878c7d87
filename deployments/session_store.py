"""Sessions as every ingress replica sees them: their logs and snapshots in Valkey (or Redis).

A session belongs to whoever claimed it last. Each claim raises its fence; what an earlier owner writes is refused, so
that two replicas never carry one session on. Everything a session is drawn from is here: an ingress may die at any
moment, another takes its sessions up where their logs end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from valkey.asyncio import Valkey

from deployments import store_scripts
from deployments.session_record import (
    SUMMARY_FIELDS,
    VIDEO_PROMPT_FIELDS,
    Counters,
    Entry,
    SessionRecord,
    fields_of,
    followed_json,
    packed_video_prompt,
    record_of,
    spoken_json,
    video_prompt_of,
)
from gamegen.grouping import GroupedCalls
from gamegen.session_log import CONTROL_BYTES, VideoPrompt, pack_controls

_PREFIX = "gamegen:"
_USER = _PREFIX + "user:"
_TIMEOUT_S = 2.0
_ENDED_S = 120
"""How long it is remembered that a session was deleted, so that its owner does not put it back."""
_MOST_COMMITS = 128
_SOONEST_S, _RETRY_S, _LATEST_S = 5, 30, 120
"""Who found no place is told to come back in this many seconds: the least, where nothing is known, the most."""


class SessionGoneError(KeyError):
    """There is no such session: it was deleted, has expired or never was."""


class SessionMovedError(RuntimeError):
    """Another ingress has claimed the session."""


class StoreFullError(RuntimeError):
    """So many sessions live already."""


class UserFullError(RuntimeError):
    """So many sessions of one user live already."""


class PromptsFullError(RuntimeError):
    """So many video prompts of a session are kept already."""


@dataclass(frozen=True)
class StoreLimits:
    """A record nobody plays expires after `kept_s`.

    An owner that says nothing for `lease_s` has lost its place among those who play; a socket that closed keeps its own
    for `return_s`. `max_of_user` sessions of one user may be live, that is played, queued or about to begin; 0 for any
    number.
    """

    kept_s: float
    lease_s: float = 10.0
    return_s: float = 10.0
    max_of_user: int = 0


@dataclass(frozen=True)
class _Commit:
    keys: list[str]
    args: list[Any]


class SessionStore:
    """The store's client; one an ingress replica. Commits that wait at the same time travel together."""

    def __init__(self, url: str, limits: StoreLimits) -> None:
        self._valkey: Valkey = Valkey.from_url(
            url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        )
        self._limits = limits
        script = self._valkey.register_script
        self._create = script(store_scripts.CREATE)
        self._claim = script(store_scripts.CLAIM)
        self._commit = script(store_scripts.COMMIT)
        self._commits = GroupedCalls(self._commit_all, _MOST_COMMITS, calls_at_once=1)
        self._keep_video_prompt = script(store_scripts.KEEP_VIDEO_PROMPT)
        self._admit = script(store_scripts.ADMIT)
        self._release = script(store_scripts.RELEASE)
        self._delete = script(store_scripts.DELETE)

    async def create(self, record: SessionRecord, max_live: int) -> None:
        """Enters a session; raises StoreFullError where `max_live` live already, or UserFullError."""
        fields = fields_of(record)
        flat = [part for pair in fields.items() for part in pair]
        keys = [*_keys(record.id), _PREFIX + "sessions", _PREFIX + "live", _USER + record.user]
        max_of_user = self._limits.max_of_user if record.user else 0
        limits = [time.time(), self._limits.return_s, max_live, max_of_user, self._kept_ms]
        packed = [record.controls, json.dumps([spoken_json(words) for words in record.spoken])]
        answer = await self._create(keys=keys, args=[record.id, *limits, *packed, *flat])
        if answer == b"full":
            raise StoreFullError(f"{max_live} sessions are played or wait for a place, more are not taken")
        if answer == b"user":
            raise self._user_full()

    async def get(self, session_id: str) -> SessionRecord:
        """A session's record; raises SessionGoneError."""
        session, controls, spoken, _ = _keys(session_id)
        async with self._valkey.pipeline(transaction=True) as pipe:
            pipe.hgetall(session)
            pipe.get(controls)
            pipe.lrange(spoken, 0, -1)
            pipe.zscore(_PREFIX + "playing", session_id)
            pipe.zscore(_PREFIX + "queue", session_id)
            fields, packed, said, lease_until, turn = await pipe.execute()
        return _with_state(_found(session_id, fields, packed, said), lease_until, turn)

    async def summary(self, session_id: str) -> SessionRecord:
        """A record without controls, snapshot, files, and all words but the last. Raises SessionGoneError."""
        session, _, spoken, _ = _keys(session_id)
        async with self._valkey.pipeline(transaction=True) as pipe:
            pipe.hmget(session, [*SUMMARY_FIELDS])
            pipe.lrange(spoken, -1, -1)
            pipe.zscore(_PREFIX + "playing", session_id)
            pipe.zscore(_PREFIX + "queue", session_id)
            values, said, lease_until, turn = await pipe.execute()
        found = {
            name.encode(): value
            for name, value in zip(SUMMARY_FIELDS, values, strict=True)
            if value is not None
        }
        return _with_state(_found(session_id, found, b"", said), lease_until, turn)

    async def listed(self, limit: int, offset: int) -> tuple[list[SessionRecord], int]:
        """Summaries of some of the sessions, the newest first; and how many there are."""
        everyone = [i.decode() for i in await self._valkey.zrevrange(_PREFIX + "sessions", 0, -1)]
        async with self._valkey.pipeline(transaction=False) as pipe:
            for session_id in everyone:
                pipe.exists(_keys(session_id)[0])
            exist = await pipe.execute()
        gone = [i for i, there in zip(everyone, exist, strict=True) if not there]
        if gone:
            await self._valkey.zrem(_PREFIX + "sessions", *gone)
        present = [i for i, there in zip(everyone, exist, strict=True) if there]
        found = []
        for session_id in present[offset : offset + limit]:
            try:
                found.append(await self.summary(session_id))
            # One may end while the others are read.
            except SessionGoneError:
                continue
        return found, len(present)

    async def claim(self, session_id: str) -> SessionRecord:
        """Takes a session over: who had it before can write no more. Raises SessionGoneError."""
        fields, packed, said = await self._claim(keys=_keys(session_id), args=[self._kept_ms])
        return _found(session_id, dict(zip(fields[::2], fields[1::2], strict=True)), packed, said)

    async def commit(
        self,
        record: SessionRecord,
        since: int,
        entries: Sequence[Entry],
        counters: Counters,
        snapshot: tuple[int, bytes] | None = None,
    ) -> None:
        """Logs the chunks after `since`, and a snapshot `(version, bytes)`, for the owner of `record.fence`.

        With no entries it only tells that the owner is there. What was logged already is not logged twice.
        Raises SessionMovedError, SessionGoneError, or LookupError where the store lacks chunks before `since`.
        """
        spoken = [words for entry in entries for words in entry.spoken]
        told = [counters.state, counters.frames_sent, counters.frames_dropped]
        pairs = [part for words in spoken for part in (words.chunk, spoken_json(words))]
        saved = [snapshot[0], snapshot[1]] if snapshot else ["", ""]
        packed = pack_controls([entry.control for entry in entries])
        # Few, so that all of them are written again when there is another.
        followed = followed_json(record) if any(entry.followed for entry in entries) else ""
        keys = [*_keys(record.id), _PREFIX + "live", _PREFIX + "playing"]
        times = [time.time() + self._limits.lease_s, self._kept_ms]
        args = [record.id, record.fence, since, CONTROL_BYTES, *times, packed, *saved, *told, followed]
        _check(await self._commits.answer(_Commit(keys, [*args, *pairs])), record.id)

    async def _commit_all(self, commits: list[_Commit]) -> AsyncIterator[list[Any]]:
        async with self._valkey.pipeline(transaction=False) as pipe:
            for commit in commits:
                await self._commit(keys=commit.keys, args=commit.args, client=pipe)
            # An error in place of an answer is raised where that answer is waited for.
            yield await pipe.execute(raise_on_error=False)

    async def keep_video_prompt(self, session_id: str, prompt: VideoPrompt, most: int) -> None:
        """Keeps a video prompt with its session, which has no more than `most`; one that is there stays the only one.

        Raises SessionGoneError or PromptsFullError.
        """
        field = VIDEO_PROMPT_FIELDS + prompt.id
        packed = packed_video_prompt(prompt)
        keys = [_keys(session_id)[0]]
        answer = await self._keep_video_prompt(keys=keys, args=[VIDEO_PROMPT_FIELDS, most, field, packed])
        if answer == b"full":
            raise PromptsFullError(f"this session has {most} video prompts already")
        _check(answer, session_id)

    async def video_prompt(self, session_id: str, prompt_id: str) -> VideoPrompt | None:
        """A session's video prompt, if there is one of that id."""
        packed = await self._valkey.hget(_keys(session_id)[0], VIDEO_PROMPT_FIELDS + prompt_id)  # type: ignore[misc]
        return None if packed is None else video_prompt_of(packed)

    async def restore(self, record: SessionRecord) -> None:
        """Puts a whole record back that a restarted store has lost."""
        session, controls, spoken, _ = _keys(record.id)
        async with self._valkey.pipeline(transaction=True) as pipe:
            pipe.delete(session, controls, spoken)
            pipe.hset(session, mapping=fields_of(record))
            pipe.set(controls, record.controls)
            if record.spoken:
                pipe.rpush(spoken, *(spoken_json(words) for words in record.spoken))
            for key in (session, controls, spoken):
                pipe.pexpire(key, self._kept_ms)
            pipe.zadd(_PREFIX + "sessions", {record.id: record.created_s})
            await pipe.execute()

    async def admit(self, session_id: str, capacity: int) -> int:
        """Asks for a place among those who play: 0 if it is given, else the position in the queue, 1 the next.

        Raises UserFullError for one that comes back when its user has begun as many others.
        """
        now, limits = time.time(), self._limits
        keys = [_PREFIX + name for name in ("live", "playing", "queue", "tickets", "given")]
        of_user = [limits.max_of_user, _USER, self._kept_ms]
        position = await self._admit(
            keys=[*keys, _keys(session_id)[0]],
            args=[session_id, now, now + limits.lease_s, capacity, *of_user],
        )
        if position < 0:
            raise self._user_full()
        return int(position)

    async def pseudonym(self, user: str) -> str:
        """What stands for a user in this store: a hash by a key of the store, which tells nobody else who it is."""
        if not user:
            return ""
        async with self._valkey.pipeline(transaction=True) as pipe:
            pipe.set(_PREFIX + "pseudonyms", secrets.token_bytes(32), nx=True)
            pipe.get(_PREFIX + "pseudonyms")
            _, key = await pipe.execute()
        return hashlib.blake2b(user.encode(), key=key, digest_size=16).hexdigest()

    async def release(self, record: SessionRecord) -> None:
        """Leaves the session to whoever claims it next; nothing if somebody has."""
        keys = [_keys(record.id)[0], *(_PREFIX + name for name in ("live", "playing", "queue"))]
        return_at = time.time() + self._limits.return_s
        await self._release(keys=keys, args=[record.id, record.fence, return_at, self._kept_ms])

    async def delete(self, session_id: str) -> None:
        """Ends a session: its owner learns of it with its next commit. Raises SessionGoneError."""
        keys = [*_keys(session_id), *(_PREFIX + name for name in ("sessions", "live", "playing", "queue"))]
        if not await self._delete(keys=keys, args=[session_id, _ENDED_S]):
            raise SessionGoneError(session_id)

    async def counts(self) -> dict[str, int]:
        """Sessions that are `live` (played, queued or about to begin), `playing` and `queued` just now."""
        now = time.time()
        async with self._valkey.pipeline(transaction=True) as pipe:
            for name in ("live", "playing"):
                pipe.zcount(_PREFIX + name, now, "inf")
            pipe.zcard(_PREFIX + "queue")
            live, playing, queued = await pipe.execute()
        return {"live": live, "playing": playing, "queued": queued}

    async def offer_places(self, replica: str, places: int, lasting_s: float) -> None:
        """A world replica tells how many sessions it can hold; 0 takes the offer back."""
        async with self._valkey.pipeline(transaction=True) as pipe:
            if places:
                pipe.hset(_PREFIX + "places", replica, str(places))
                pipe.zadd(_PREFIX + "worlds", {replica: time.time() + lasting_s})
            else:
                pipe.hdel(_PREFIX + "places", replica)
                pipe.zrem(_PREFIX + "worlds", replica)
            await pipe.execute()

    async def retry_after_s(self, turns: int = 1) -> int:
        """In how many seconds so many places may be given, by how often they were of late."""
        given = [float(at) for at in await self._valkey.lrange(_PREFIX + "given", 0, -1)]  # type: ignore[misc]
        if not given:
            return _RETRY_S
        # The time since the last one counts: the longer nobody leaves, the less soon somebody will.
        wait_s = turns * (time.time() - given[-1]) / len(given)
        return round(min(max(wait_s, _SOONEST_S), _LATEST_S))

    async def places(self) -> int:
        """Sessions that all world replicas together can hold."""
        replicas = await self._valkey.zrangebyscore(_PREFIX + "worlds", time.time(), "inf")
        if not replicas:
            return 0
        offers: list[bytes | None] = await self._valkey.hmget(_PREFIX + "places", replicas)  # type: ignore[misc]
        return sum(int(places or 0) for places in offers)

    async def close(self) -> None:
        """Closes the connections."""
        await self._valkey.aclose()

    def _user_full(self) -> UserFullError:
        most, return_s = self._limits.max_of_user, self._limits.return_s
        return UserFullError(
            f"you play or wait in {most} sessions already and the limit is {most}: end one with DELETE "
            f"/v1/sessions/{{id}}, or close its socket and wait {return_s:g} s"
        )

    @property
    def _kept_ms(self) -> int:
        return int(1000 * self._limits.kept_s)


def _keys(session_id: str) -> list[str]:
    """A session's hash, its controls, what was said, and whether it was deleted."""
    return [f"{_PREFIX}{name}:{session_id}" for name in ("session", "controls", "spoken", "ended")]


def _found(
    session_id: str, fields: dict[bytes, bytes], controls: bytes | None, spoken: Sequence[bytes]
) -> SessionRecord:
    if b"spec" not in fields:
        raise SessionGoneError(session_id)
    return record_of(session_id, fields, controls, spoken)


def _with_state(record: SessionRecord, lease_until: float | None, turn: float | None) -> SessionRecord:
    """With the state that holds now: the last owner may have died without a word."""
    if lease_until is not None and lease_until >= time.time():
        return record
    return dataclasses.replace(record, state="waiting" if turn is None else "queued")


def _check(answer: bytes, session_id: str) -> None:
    if answer == b"moved":
        raise SessionMovedError(f"session {session_id} is played elsewhere")
    if answer == b"gone":
        raise SessionGoneError(session_id)
    if answer == b"behind":
        raise LookupError(f"the store has lost chunks of session {session_id}")
