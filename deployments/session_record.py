"""A session as the store keeps it: one hash, and keys of their own for what grows with it."""

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
from gamegen.session_log import Followed, SessionLog, Spoken, VideoPrompt, WorldSpec, unpack_controls

State = Literal["waiting", "queued", "playing", "recovering"]

VIDEO_PROMPT_FIELDS = "video_prompt:"
"""What the fields of video prompts begin with, before their id."""
_NUMBERS = ("first_chunks", "fence", "version", "snapshot_version", "frames_sent", "frames_dropped")
SUMMARY_FIELDS = ("spec", "created_s", "token_sha256", "user", "state", *_NUMBERS)
"""What `record_of` cannot do without."""


@dataclass(frozen=True)
class SessionRecord:
    """A session at its last logged chunk; `snapshot` is of an earlier or the same version, or None.

    `user` stands for who began it, see `SessionStore.pseudonym`; empty if nobody in particular. Versions count the
    chunks that were played; `first_chunks` came before, those that the world goes on from. `video_prompts` are those
    that were uploaded, by id, whether they are followed or not.
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
    spoken: list[Spoken] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    video_prompts: dict[str, VideoPrompt] = field(default_factory=dict)
    snapshot: bytes | None = None
    snapshot_version: int = 0
    frames_sent: int = 0
    frames_dropped: int = 0

    @classmethod
    def new(
        cls, session_id: str, spec: WorldSpec, user: str = "", first_chunks: int = 0
    ) -> tuple[SessionRecord, str]:
        """A session that nobody has played, and the token by which its player is known."""
        token = secrets.token_urlsafe(24)
        return cls(session_id, spec, time.time(), _digest(token), user, first_chunks), token

    def is_token(self, token: str) -> bool:
        """Whether the token is this session's."""
        return hmac.compare_digest(_digest(token), self.token_sha256)

    @property
    def instruction(self) -> str:
        """The words in force."""
        return self.spoken[-1].text if self.spoken else ""

    def log(self) -> SessionLog:
        """What it was played by."""
        controls = unpack_controls(self.controls)
        whole = SessionLog(self.spec, controls, self.spoken, self.followed, self.video_prompts)
        # All of it, but for the video prompts that nothing followed.
        return whole.until(len(controls))


@dataclass(frozen=True)
class Entry:
    """One chunk for the log: its control, and the words and the video prompt that began with it."""

    control: Control
    spoken: tuple[Spoken, ...] = ()
    followed: tuple[Followed, ...] = ()


@dataclass(frozen=True)
class Counters:
    """What else is told of a session with each commit."""

    state: State
    frames_sent: int
    frames_dropped: int


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def fields_of(record: SessionRecord) -> dict[str, Any]:
    """The hash of a record; what grows with the session has keys of its own."""
    spec = dataclasses.asdict(record.spec)
    first_frames = spec.pop("first_frames")
    fields = {
        "spec": json.dumps(spec),
        "created_s": record.created_s,
        "token_sha256": record.token_sha256,
        "user": record.user,
        "state": record.state,
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
    """The record of `fields_of`, or of a part of it with `SUMMARY_FIELDS`, and of what has keys of its own."""
    spec = WorldSpec(**json.loads(fields[b"spec"]), first_frames=fields.get(b"first_frames"))
    return SessionRecord(
        session_id,
        spec,
        float(fields[b"created_s"]),
        fields[b"token_sha256"].decode(),
        fields[b"user"].decode(),
        state=fields[b"state"].decode(),  # type: ignore[arg-type]
        controls=controls or b"",
        spoken=[Spoken(**json.loads(words)) for words in spoken],
        followed=[Followed(**prompt) for prompt in json.loads(fields.get(b"followed", b"[]"))],
        video_prompts=_video_prompts(fields),
        snapshot=fields.get(b"snapshot"),
        **{name: int(fields[name.encode()]) for name in _NUMBERS},
    )


def spoken_json(words: Spoken) -> str:
    """One entry of the list of words."""
    return json.dumps(dataclasses.asdict(words))


def followed_json(record: SessionRecord) -> str:
    """The field of the video prompts that were followed."""
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
