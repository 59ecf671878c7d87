"""JSON bodies of the routes of play: requests and responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator

from deployments.limits import MAX_SEED
from deployments.request_schemas import Base64File, RequestBody
from deployments.stream.client_messages import MAX_PROMPT_CHARACTERS, Camera, SpokenInstruction, known_keys
from gamegen.media.size import check_size
from gamegen.sessions.log import PromptKind
from gamegen.sessions.start import StartKind

MAX_ONE_SHOT_CHUNKS = 24


class Resolution(RequestBody):
    """Frame size in pixels, multiples of 16."""

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


class Branch(RequestBody):
    """A point of another session to start from: after `chunk` of its chunks, by default all of them."""

    session_id: str = Field(max_length=64)
    resume_token: str = Field(max_length=128)
    chunk: int | None = Field(None, ge=0)


class NewSession(RequestBody):
    """A new playable world, or a branch of another one (then all other fields are left out)."""

    prompt: Prompt | None = Field(None, examples=["snowy forest at night"])
    perspective: Literal["first", "third"] = "first"
    seed: int = Field(0, ge=0, le=MAX_SEED)
    model: str | None = Field(None, max_length=256, description="only the one that is served, see /v1/status")
    branch: Branch | None = None
    image: Base64File | None = Field(None, description="a PNG, JPEG or WebP file in base64 to go on from")
    video: Base64File | None = Field(
        None, description="an MP4 or WebM file in base64, of half a minute at most, whose end to go on from"
    )
    start: StartKind | None = Field(
        None,
        description="what to begin from: a recorded moment of the gallery that suits the prompt, the prompt alone "
        "(drawn), or the image or video (picture); when left out the picture if there is one, else the gallery if the "
        "model has one, else drawn",
    )
    gallery_id: str | None = Field(
        None, min_length=1, max_length=128, description="the start of GET /v1/gallery to begin from"
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
        has_picture = self.image is not None or self.video is not None
        if self.start == "picture" and not has_picture:
            raise ValueError("start: a picture needs an image or a video, send one or leave start out")
        if self.start not in (None, "picture") and has_picture:
            raise ValueError(f"start: {self.start!r} uses no image or video, leave them or start out")
        if self.gallery_id is not None and (has_picture or self.start not in (None, "gallery")):
            raise ValueError("gallery_id: it is for start 'gallery' alone, leave the others out")
        return self


class NewVideoPrompt(RequestBody):
    """A video prompt to upload: a video's edges, its motion, or poses drawn in it."""

    resume_token: str = Field(max_length=128)
    kind: PromptKind
    video: Base64File = Field(description="an MP4 or WebM file in base64, of ten seconds at most")


class VideoPromptKept(BaseModel):
    """An uploaded video prompt: its id, and its length in chunks."""

    id: str
    chunks: int


class SessionAddress(BaseModel):
    """URLs and frame size of a world's stream."""

    id: str
    stream_url: str
    direct_stream_url: str | None = Field(
        None,
        description="the same without the proxy, where it can be reached: quicker, and gone with its replica",
    )
    width: int
    height: int
    fps: int


class SessionStart(BaseModel):
    """Start of a world: its kind, and for one of the gallery the start's id, caption and credit."""

    kind: StartKind
    id: str | None
    caption: str | None
    credit: str | None


class SessionCreated(SessionAddress):
    """A new world with the token that is needed to play it; no other response shows the token."""

    resume_token: str
    start: SessionStart


class GalleryStart(BaseModel):
    """A recorded moment that worlds can begin from, and the address of its small picture."""

    id: str
    caption: str
    perspective: Literal["first", "third"] | None
    picture_url: str


class GalleryPage(BaseModel):
    """A page of `total` starts; `credit` names the footage and its licence."""

    starts: list[GalleryStart]
    total: int
    credit: str | None


class SessionState(SessionAddress):
    """A world's state: `queued` waits for a place, `waiting` for its player."""

    prompt: str
    perspective: str
    seed: int
    model: str
    created_s: float
    start: SessionStart
    state: Literal["waiting", "queued", "playing", "recovering"]
    chunks: int
    instruction: str | None
    frames_sent: int
    frames_dropped: int


class SessionList(BaseModel):
    """A page of `total` worlds, the newest first."""

    sessions: list[SessionState]
    total: int


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
    """Frames as JPEG files in base64, and the number of the first frame's chunk."""

    session_id: str
    chunk: int
    frames: list[str]
