"""What clients send and get over REST."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from deployments.client_messages import MAX_PROMPT_CHARACTERS, Body, Camera, SpokenInstruction, known_keys
from gamegen.session_log import PromptKind
from gamegen.video import check_size

MAX_SEED = 2**63 - 1
MAX_ONE_SHOT_CHUNKS = 24
_MAX_FILE_CHARACTERS = 12 * 1024 * 1024
"""In base64, and more than the largest image or video: one that is a little too large is told so."""
_MOST_FIELDS = 32
MAX_BODY_BYTES = _MAX_FILE_CHARACTERS + 256 * 1024
"""The largest file and prompt, with every character of the prompt escaped."""


class RequestBody(Body):
    """A request's body or a part of one, which may be as long as a video."""

    @model_validator(mode="before")
    @classmethod
    def _check_count(cls, data: Any) -> Any:
        # An error for each of a million fields would keep the process busy for a quarter of a minute.
        if isinstance(data, dict) and len(data) > _MOST_FIELDS:
            raise ValueError(f"{len(data)} fields: there are {len(cls.model_fields)}, see /docs")
        return data


class Resolution(RequestBody):
    """Picture size in pixels, multiples of 16."""

    width: int = Field(examples=[160])
    height: int = Field(examples=[96])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height


def _checked_size(resolution: Resolution | None) -> Resolution | None:
    if resolution is not None:
        check_size(resolution.width, resolution.height)
    return resolution


Size = Annotated[Resolution | None, Field(description="the model's own size when left out")]
Prompt = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PROMPT_CHARACTERS)
]


def _decoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("not text: send the bytes of the file in base64")
    if len(text) > _MAX_FILE_CHARACTERS:
        raise ValueError(
            f"{len(text)} characters and the limit is {_MAX_FILE_CHARACTERS}: send a smaller file"
        )
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError("not valid base64: send the bytes of the file in base64") from error


File = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "format": "base64", "maxLength": _MAX_FILE_CHARACTERS}),
]


class Branch(RequestBody):
    """Where a session begins that goes on from another: after so many of its chunks, all of them by default."""

    session_id: str = Field(max_length=64)
    resume_token: str = Field(max_length=128)
    chunk: int | None = Field(None, ge=0)


class NewSession(RequestBody):
    """Begins a playable world, or another way from some point of one (then all but `branch` is left out)."""

    prompt: Prompt | None = Field(None, examples=["snowy forest at night"])
    perspective: Literal["first", "third"] = "first"
    seed: int = Field(0, ge=0, le=MAX_SEED)
    model: str | None = Field(None, max_length=256, description="only the one that is served, see /v1/status")
    branch: Branch | None = None
    image: File | None = Field(None, description="a PNG, JPEG or WebP file in base64 to go on from")
    video: File | None = Field(
        None, description="an MP4 or WebM file in base64, of half a minute at most, whose end to go on from"
    )
    resolution: Size = None

    _check_resolution = field_validator("resolution")(_checked_size)

    @model_validator(mode="after")
    def _check_beginning(self) -> NewSession:
        others = self.model_fields_set - {"branch"}
        if self.branch and others:
            raise ValueError(f"{sorted(others)[0]}: a branch begins as its session did, leave this out")
        if self.branch is None and self.prompt is None:
            raise ValueError("prompt: field required")
        if self.image is not None and self.video is not None:
            raise ValueError("image, video: a world goes on from one of them, leave the other out")
        return self


class NewVideoPrompt(RequestBody):
    """A video to follow: its edges, its motion, or the poses that are drawn in it."""

    resume_token: str = Field(max_length=128)
    kind: PromptKind
    video: File = Field(description="an MP4 or WebM file in base64, of ten seconds at most")


class VideoPromptKept(BaseModel):
    """A video prompt that was uploaded, by whose id a stream asks for it, and for how many chunks it lasts."""

    id: str
    chunks: int


class SessionAddress(BaseModel):
    """Where a world is played."""

    id: str
    stream_url: str
    direct_stream_url: str | None = Field(
        None,
        description="the same without the proxy, where it can be reached: quicker, and gone with its replica",
    )
    width: int
    height: int
    fps: int


class SessionCreated(SessionAddress):
    """A new world; whoever has the token can play it, so it is told this once and never again."""

    resume_token: str


class SessionState(SessionAddress):
    """A world as it is now; `queued` ones wait for a place, `waiting` ones for their player."""

    prompt: str
    perspective: str
    seed: int
    model: str
    created_s: float
    state: Literal["waiting", "queued", "playing", "recovering"]
    chunks: int
    instruction: str | None
    frames_sent: int
    frames_dropped: int


class SessionList(BaseModel):
    """Some worlds, the newest first, of `total`."""

    sessions: list[SessionState]
    total: int


class ErrorDetail(BaseModel):
    """A stable code, and a sentence that says what to do."""

    code: str
    message: str


class ErrorBody(BaseModel):
    """The body of every 4xx and 5xx answer."""

    error: ErrorDetail


class OneShot(RequestBody):
    """Plays a session for a few chunks without a socket, under one control."""

    session_id: str = Field(max_length=64)
    resume_token: str = Field(max_length=128)
    keys: list[str] = Field(default_factory=list, max_length=32, description="held all the time")
    camera: Camera | None = None
    instruction: SpokenInstruction | None = None
    chunks: int = Field(1, ge=1, le=MAX_ONE_SHOT_CHUNKS, description="of four frames each")

    _check_keys = field_validator("keys")(known_keys)


class OneShotFrames(BaseModel):
    """The frames drawn, JPEG files in base64, and the number of the first one's chunk."""

    session_id: str
    chunk: int
    frames: list[str]
