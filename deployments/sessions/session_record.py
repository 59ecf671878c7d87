"""Session records, and how the store keeps them: one hash, and keys of their own for what grows with a session."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gamegen.controls import Control
from gamegen.sessions.log import (
    LoggedInstruction,
    LoggedVideoPrompt,
    SessionLog,
    VideoPrompt,
    WorldSpec,
    unpack_controls,
)
from gamegen.sessions.start import StartFacts

State = Literal["waiting", "queued", "playing", "recovering"]

VIDEO_PROMPT_FIELDS = "video_prompt:"
"""Prefix of the fields of video prompts, before their id."""
_NUMBERS = ("first_chunks", "fence", "version", "snapshot_version", "frames_sent", "frames_dropped")
SUMMARY_FIELDS = ("spec", "created_s", "token_sha256", "user", "state", "start", *_NUMBERS)
"""Fields that `record_of` needs at least; only `start` may be missing, of sessions older than that field."""


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """A session at its last logged chunk; `snapshot` is of an earlier or the same version, or None.

    `user` is the pseudonym of the user who began it, see `SessionStore.pseudonym`; empty if unknown. `version` counts
    the chunks that were played; `first_chunks` came before them, read from the first frames that the world continues.
    `video_prompts` are those that were uploaded, by id, followed or not. `controls` are packed, see `pack_controls`.
    `start` says how the world began where the file that it continues is left out.
    """

    id: str
    spec: WorldSpec
    created_s: float
    token_sha256: str
    user: str = ""
    first_chunks: int = 0
    fence: int = 0
    version: int = 0
    state: State = "waiting"
    controls: bytes = b""
    spoken: list[LoggedInstruction] = field(default_factory=list)
    followed: list[LoggedVideoPrompt] = field(default_factory=list)
    video_prompts: dict[str, VideoPrompt] = field(default_factory=dict)
    snapshot: bytes | None = None
    snapshot_version: int = 0
    frames_sent: int = 0
    frames_dropped: int = 0
    start: StartFacts = field(default_factory=lambda: StartFacts("drawn"))

    @classmethod
    def new(
        cls, session_id: str, spec: WorldSpec, user: str = "", first_chunks: int = 0
    ) -> tuple[SessionRecord, str]:
        """A session that nobody has played, and the token that its player proves ownership with."""
        token = secrets.token_urlsafe(24)
        record = cls(
            id=session_id,
            spec=spec,
            created_s=time.time(),
            token_sha256=_digest(token),
            user=user,
            first_chunks=first_chunks,
            start=StartFacts.of(spec.first_frames),
        )
        return record, token

    def is_token(self, token: str) -> bool:
        """Whether the token is this session's."""
        return hmac.compare_digest(_digest(token), self.token_sha256)

    @property
    def instruction(self) -> str:
        """The instruction in force, empty if there is none."""
        return self.spoken[-1].text if self.spoken else ""

    def log(self) -> SessionLog:
        """The session's log, without the video prompts that it does not follow."""
        controls = unpack_controls(self.controls)
        whole = SessionLog(self.spec, controls, self.spoken, self.followed, self.video_prompts)
        return whole.until(len(controls))


@dataclass(frozen=True)
class LoggedChunk:
    """One chunk for the log: its control, and the instructions and video prompts that begin with it."""

    control: Control
    spoken: tuple[LoggedInstruction, ...] = ()
    followed: tuple[LoggedVideoPrompt, ...] = ()


@dataclass(frozen=True)
class Counters:
    """A session's state and numbers of frames, written with each commit."""

    state: State
    frames_sent: int
    frames_dropped: int


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def fields_of(record: SessionRecord) -> dict[str, Any]:
    """The fields of a record's hash; controls and instructions have keys of their own."""
    spec = dataclasses.asdict(record.spec)
    first_frames = spec.pop("first_frames")
    fields = {
        "spec": json.dumps(spec),
        "created_s": record.created_s,
        "token_sha256": record.token_sha256,
        "user": record.user,
        "state": record.state,
        "start": json.dumps(dataclasses.asdict(record.start)),
        **{name: getattr(record, name) for name in _NUMBERS},
    }
    if first_frames is not None:
        fields["first_frames"] = first_frames
    for name, prompt in record.video_prompts.items():
        fields[VIDEO_PROMPT_FIELDS + name] = packed_video_prompt(prompt)
    if record.followed:
        fields["followed"] = followed_json(record)
    if record.snapshot is not None:
        fields["snapshot"] = record.snapshot
    return fields


def record_of(
    session_id: str, fields: dict[bytes, bytes], controls: bytes | None, spoken: Sequence[bytes]
) -> SessionRecord:
    """The record of a hash with at least `SUMMARY_FIELDS`, of its controls and its instructions."""
    spec = WorldSpec(**json.loads(fields[b"spec"]), first_frames=fields.get(b"first_frames"))
    # A session older than this field: its first chunks are of a picture or video, or it has none.
    began = {"kind": "picture" if int(fields[b"first_chunks"]) else "drawn"}
    return SessionRecord(
        id=session_id,
        spec=spec,
        created_s=float(fields[b"created_s"]),
        token_sha256=fields[b"token_sha256"].decode(),
        user=fields[b"user"].decode(),
        state=fields[b"state"].decode(),  # type: ignore[arg-type]
        controls=controls or b"",
        spoken=[LoggedInstruction(**json.loads(words)) for words in spoken],
        followed=[LoggedVideoPrompt(**prompt) for prompt in json.loads(fields.get(b"followed", b"[]"))],
        video_prompts=_video_prompts(fields),
        snapshot=fields.get(b"snapshot"),
        start=StartFacts(**json.loads(fields[b"start"]) if b"start" in fields else began),
        **{name: int(fields[name.encode()]) for name in _NUMBERS},
    )


def spoken_json(words: LoggedInstruction) -> str:
    """An instruction as the list of instructions holds it."""
    return json.dumps(dataclasses.asdict(words))


def followed_json(record: SessionRecord) -> str:
    """The field of the video prompts that were followed, in order."""
    return json.dumps([dataclasses.asdict(prompt) for prompt in record.followed])


def packed_video_prompt(prompt: VideoPrompt) -> bytes:
    """A video prompt as its field holds it."""
    return prompt.kind.encode() + b"\0" + prompt.file


def video_prompt_of(packed: bytes) -> VideoPrompt:
    """The inverse of `packed_video_prompt`."""
    kind, _, file = packed.partition(b"\0")
    return VideoPrompt(kind.decode(), file)  # type: ignore[arg-type]


def _video_prompts(fields: dict[bytes, bytes]) -> dict[str, VideoPrompt]:
    start = VIDEO_PROMPT_FIELDS.encode()
    named = {name.removeprefix(start).decode(): it for name, it in fields.items() if name.startswith(start)}
    return {name: video_prompt_of(packed) for name, packed in named.items()}
