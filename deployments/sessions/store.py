"""Session records, their logs and snapshots in Valkey (or Redis), shared by all ingress replicas.

A session belongs to the ingress that claimed it last. Each claim raises its fence, and a commit with an earlier fence
is refused, so that two replicas never continue one session. Everything that a session is drawn from is here: an ingress
may die at any moment, and another one continues its sessions where their logs end.
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

from deployments.sessions.limits import StoreLimits
from deployments.sessions.session_record import (
    SUMMARY_FIELDS,
    VIDEO_PROMPT_FIELDS,
    Counters,
    LoggedChunk,
    SessionRecord,
    fields_of,
    followed_json,
    packed_video_prompt,
    record_of,
    spoken_json,
    video_prompt_of,
)
from deployments.sessions.store_errors import (
    PromptsFullError,
    SessionGoneError,
    SessionMovedError,
    StoreFullError,
)
from deployments.sessions.valkey_client import (
    LIVE,
    PLAYING,
    PREFIX,
    QUEUE,
    SESSIONS,
    USER_PREFIX,
    load_script,
    session_keys,
)
from gamegen.microbatch import MicroBatcher
from gamegen.sessions.log import CONTROL_BYTES, VideoPrompt, pack_controls

_PSEUDONYM_KEY = PREFIX + "pseudonyms"
_DELETED_MARK_S = 120
"""Lifetime of a deleted session's marker, so that its owner does not enter it again."""
_MAX_COMMITS = 128


@dataclass(frozen=True)
class _Commit:
    keys: list[str]
    args: list[Any]


class SessionStore:
    """Client of the store, one an ingress replica; concurrent commits share one round trip."""

    def __init__(self, valkey: Valkey, limits: StoreLimits) -> None:
        self._valkey = valkey
        self._limits = limits
        self._create = load_script(valkey, "may_live", "create")
        self._claim = load_script(valkey, "claim")
        self._commit = load_script(valkey, "commit")
        self._commits = MicroBatcher(self._commit_all, _MAX_COMMITS, calls_at_once=1)
        self._keep_video_prompt = load_script(valkey, "keep_video_prompt")
        self._release = load_script(valkey, "release")
        self._delete = load_script(valkey, "delete")

    @property
    def limits(self) -> StoreLimits:
        """The lease times and limits that this client goes by."""
        return self._limits

    async def create(self, record: SessionRecord, max_live: int) -> None:
        """Enters a session; raises StoreFullError if `max_live` are live already, or UserFullError."""
        limits = self._limits
        fields = [part for pair in fields_of(record).items() for part in pair]
        answer = await self._create(
            keys=[*session_keys(record.id), SESSIONS, LIVE, USER_PREFIX + record.user],
            args=[
                record.id,
                time.time(),
                limits.return_s,
                max_live,
                limits.max_of_user if record.user else 0,
                limits.kept_ms,
                record.controls,
                json.dumps([spoken_json(words) for words in record.spoken]),
                *fields,
            ],
        )
        if answer == b"full":
            raise StoreFullError(f"{max_live} sessions are played or wait for a place, more are not taken")
        if answer == b"user":
            raise limits.user_full()

    async def get(self, session_id: str) -> SessionRecord:
        """A session's record; raises SessionGoneError."""
        session, controls, spoken, _ = session_keys(session_id)
        async with self._valkey.pipeline(transaction=True) as pipe:
            pipe.hgetall(session)
            pipe.get(controls)
            pipe.lrange(spoken, 0, -1)
            pipe.zscore(PLAYING, session_id)
            pipe.zscore(QUEUE, session_id)
            fields, packed, said, lease_until, ticket = await pipe.execute()
        return _with_state(_found(session_id, fields, packed, said), lease_until, ticket)

    async def summary(self, session_id: str) -> SessionRecord:
        """A record without controls, snapshot, files, and all instructions but the last. Raises SessionGoneError."""
        session, _, spoken, _ = session_keys(session_id)
        async with self._valkey.pipeline(transaction=True) as pipe:
            pipe.hmget(session, [*SUMMARY_FIELDS])
            pipe.lrange(spoken, -1, -1)
            pipe.zscore(PLAYING, session_id)
            pipe.zscore(QUEUE, session_id)
            values, said, lease_until, ticket = await pipe.execute()
        found = {
            name.encode(): value
            for name, value in zip(SUMMARY_FIELDS, values, strict=True)
            if value is not None
        }
        return _with_state(_found(session_id, found, b"", said), lease_until, ticket)

    async def listed(self, limit: int, offset: int) -> tuple[list[SessionRecord], int]:
        """Summaries of `limit` sessions after the `offset` newest ones, the newest first; and the number of all."""
        everyone = [i.decode() for i in await self._valkey.zrevrange(SESSIONS, 0, -1)]
        async with self._valkey.pipeline(transaction=False) as pipe:
            for session_id in everyone:
                pipe.exists(session_keys(session_id)[0])
            exist = await pipe.execute()
        gone = [i for i, there in zip(everyone, exist, strict=True) if not there]
        if gone:
            await self._valkey.zrem(SESSIONS, *gone)
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
        """Claims a session: its earlier owner can write no more. Raises SessionGoneError."""
        fields, packed, said = await self._claim(keys=session_keys(session_id), args=[self._limits.kept_ms])
        return _found(session_id, dict(zip(fields[::2], fields[1::2], strict=True)), packed, said)

    async def commit(
        self,
        record: SessionRecord,
        *,
        since: int,
        chunks: Sequence[LoggedChunk],
        counters: Counters,
        snapshot: tuple[int, bytes] | None = None,
    ) -> None:
        """Logs the chunks after version `since`, and a snapshot `(version, bytes)`, for the owner of `record.fence`.

        Without chunks it only renews the owner's lease. Chunks that were logged already are not logged twice.
        Raises SessionMovedError, SessionGoneError, or LookupError if the store lacks chunks before `since`.
        """
        spoken = [words for chunk in chunks for words in chunk.spoken]
        snapshot_version, snapshot_bytes = snapshot or ("", "")
        commit = _Commit(
            keys=[*session_keys(record.id), LIVE, PLAYING],
            args=[
                record.id,
                record.fence,
                since,
                CONTROL_BYTES,
                time.time() + self._limits.lease_s,
                self._limits.kept_ms,
                pack_controls([chunk.control for chunk in chunks]),
                snapshot_version,
                snapshot_bytes,
                counters.state,
                counters.frames_sent,
                counters.frames_dropped,
                # Few, so that all of them are written again when there is another.
                followed_json(record) if any(chunk.followed for chunk in chunks) else "",
                *(part for words in spoken for part in (words.chunk, spoken_json(words))),
            ],
        )
        _check(await self._commits.submit(commit), record.id)

    async def _commit_all(self, commits: list[_Commit]) -> AsyncIterator[list[Any]]:
        async with self._valkey.pipeline(transaction=False) as pipe:
            for commit in commits:
                await self._commit(keys=commit.keys, args=commit.args, client=pipe)
            # An error in place of an answer is raised where that answer is waited for.
            yield await pipe.execute(raise_on_error=False)

    async def keep_video_prompt(self, session_id: str, prompt: VideoPrompt, max_prompts: int) -> None:
        """Keeps a video prompt with its session, which has at most `max_prompts`; a known one is not kept twice.

        Raises SessionGoneError or PromptsFullError.
        """
        answer = await self._keep_video_prompt(
            keys=[session_keys(session_id)[0]],
            args=[
                VIDEO_PROMPT_FIELDS,
                max_prompts,
                VIDEO_PROMPT_FIELDS + prompt.id,
                packed_video_prompt(prompt),
            ],
        )
        if answer == b"full":
            raise PromptsFullError(f"this session has {max_prompts} video prompts already")
        _check(answer, session_id)

    async def video_prompt(self, session_id: str, prompt_id: str) -> VideoPrompt | None:
        """A session's video prompt, if there is one of that id."""
        session = session_keys(session_id)[0]
        packed = await self._valkey.hget(session, VIDEO_PROMPT_FIELDS + prompt_id)  # type: ignore[misc]
        return None if packed is None else video_prompt_of(packed)

    async def restore(self, record: SessionRecord) -> None:
        """Enters a whole record again that a restarted store has lost."""
        session, controls, spoken, _ = session_keys(record.id)
        async with self._valkey.pipeline(transaction=True) as pipe:
            pipe.delete(session, controls, spoken)
            pipe.hset(session, mapping=fields_of(record))
            pipe.set(controls, record.controls)
            if record.spoken:
                pipe.rpush(spoken, *(spoken_json(words) for words in record.spoken))
            for key in (session, controls, spoken):
                pipe.pexpire(key, self._limits.kept_ms)
            pipe.zadd(SESSIONS, {record.id: record.created_s})
            await pipe.execute()

    async def release(self, record: SessionRecord) -> None:
        """Releases a session for the next claim; no effect if it was claimed already."""
        await self._release(
            keys=[session_keys(record.id)[0], LIVE, PLAYING, QUEUE],
            args=[record.id, record.fence, time.time() + self._limits.return_s, self._limits.kept_ms],
        )

    async def delete(self, session_id: str) -> None:
        """Ends a session: its owner learns of it with its next commit. Raises SessionGoneError."""
        keys = [*session_keys(session_id), SESSIONS, LIVE, PLAYING, QUEUE]
        if not await self._delete(keys=keys, args=[session_id, _DELETED_MARK_S]):
            raise SessionGoneError(session_id)

    async def pseudonym(self, user: str) -> str:
        """A user's pseudonym in this store: a hash under a key of the store, which tells nobody else who it is."""
        if not user:
            return ""
        async with self._valkey.pipeline(transaction=True) as pipe:
            pipe.set(_PSEUDONYM_KEY, secrets.token_bytes(32), nx=True)
            pipe.get(_PSEUDONYM_KEY)
            _, key = await pipe.execute()
        return hashlib.blake2b(user.encode(), key=key, digest_size=16).hexdigest()


def _found(
    session_id: str, fields: dict[bytes, bytes], controls: bytes | None, spoken: Sequence[bytes]
) -> SessionRecord:
    if b"spec" not in fields:
        raise SessionGoneError(session_id)
    return record_of(session_id, fields, controls, spoken)


def _with_state(record: SessionRecord, lease_until: float | None, ticket: float | None) -> SessionRecord:
    """The record with the state that holds now: its last owner may have died without a word."""
    if lease_until is not None and lease_until >= time.time():
        return record
    return dataclasses.replace(record, state="waiting" if ticket is None else "queued")


def _check(answer: bytes, session_id: str) -> None:
    if answer == b"moved":
        raise SessionMovedError(f"session {session_id} is played elsewhere")
    if answer == b"gone":
        raise SessionGoneError(session_id)
    if answer == b"behind":
        raise LookupError(f"the store has lost chunks of session {session_id}")
