"""What clients of the clip service send and get over REST."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from deployments.schemas import MAX_SEED, File, RequestBody
from deployments.videos.presets import ASPECT_RATIOS, RESOLUTIONS, STYLES
from gamegen.clips.plan import MAX_GUIDANCE_SCALE, MAX_STEPS
from gamegen.controls import FPS
from gamegen.video import MAX_FRAMES, check_frames, check_size, parse_size

MAX_PROMPT_CHARACTERS = 2000
MAX_URL_CHARACTERS = 2000
_SIZE = r"^[0-9]{2,4}x[0-9]{2,4}$"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def _storable(text: str) -> str:
    found = _UNSTORABLE.search(text)
    if found:
        raise ValueError(f"the character at {found.start()} is no text: leave NUL and lone surrogates out")
    return text


def _whole(value: Any) -> Any:
    # Forms send numbers as text, which a choice of numbers does not take.
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


Words = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=MAX_PROMPT_CHARACTERS),
    AfterValidator(_storable),
]
Name = Annotated[str, StringConstraints(max_length=256), AfterValidator(_storable)]


class NewVideo(RequestBody):
    """Orders a clip from a prompt, and from a first picture or a video to go on from."""

    prompt: Annotated[Words, StringConstraints(min_length=1)] = Field(examples=["sunny desert at noon"])
    negative_prompt: Words = Field("", description="what is not to be seen")
    perspective: Literal["first", "third"] = "first"
    style: Literal[tuple(STYLES)] | None = Field(None, description="adds words to the prompt")  # type: ignore[valid-type]
    image: File | None = Field(None, description="a PNG, JPEG or WebP file in base64 to begin with")
    video: File | None = Field(None, description="an MP4 or WebM file in base64 to go on from")
    num_frames: int | None = Field(None, ge=1, le=MAX_FRAMES, description="drawn, at 24 a second")
    seconds: float | None = Field(None, gt=0, le=MAX_FRAMES / FPS, description="instead of num_frames")
    size: str | None = Field(None, pattern=_SIZE, examples=["160x96"], description="WIDTHxHEIGHT in pixels")
    resolution: Literal[tuple(RESOLUTIONS)] | None = Field(None, description="instead of size")  # type: ignore[valid-type]
    aspect_ratio: Literal[tuple(ASPECT_RATIOS)] | None = Field(None, description="with resolution")  # type: ignore[valid-type]
    fps: Annotated[Literal[24, 30], BeforeValidator(_whole)] = Field(24, description="of the file")
    num_steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="of denoising, for each chunk")
    guidance_scale: float | None = Field(None, ge=0, le=MAX_GUIDANCE_SCALE)
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="the same seed draws the same clip")
    tier: Literal["realtime", "standard", "cinema"] = "standard"
    priority: int = Field(5, ge=0, le=9, description="within the tier, 9 goes first")
    webhook_url: Annotated[str, StringConstraints(max_length=MAX_URL_CHARACTERS)] | None = Field(
        None, description="https address that is told when the video ends"
    )
    kept: bool = Field(False, description="its files are not removed after their time")
    model: Name | None = Field(None, description="only the one that is served, see /v1/status")

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: str | None) -> str | None:
        if size is not None:
            check_size(*parse_size(size))
        return size

    @field_validator("webhook_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        return None if url is None else _storable(url)

    @model_validator(mode="after")
    def _check_choices(self) -> NewVideo:
        for one, other in (("image", "video"), ("num_frames", "seconds"), ("size", "resolution")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one}, {other}: both say the same, leave one out")
        if self.aspect_ratio and not self.resolution:
            raise ValueError("aspect_ratio: goes with a resolution, add one or give a size instead")
        if self.seconds is not None:
            check_frames(round(self.seconds * FPS))
        return self


class VideoError(BaseModel):
    """Why there is no clip: a stable code and a sentence."""

    code: str
    message: str


class VideoState(BaseModel):
    """A clip as it is now: OpenAI's shape and what else we know; times are unix seconds."""

    id: str
    object: Literal["video"] = "video"
    status: Literal["queued", "in_progress", "completed", "failed"]
    state: str = Field(description="PENDING to UPLOADING, then COMPLETED, FAILED, CANCELLED or BLOCKED")
    progress: int = Field(ge=0, le=100)
    created_at: int
    completed_at: int | None
    expires_at: int | None
    model: str
    prompt: str
    size: str
    seconds: str
    quality: Literal["standard"] = "standard"
    error: VideoError | None
    negative_prompt: str
    perspective: str
    num_frames: int
    fps: int
    num_steps: int
    guidance_scale: float
    seed: int
    tier: str
    priority: int
    step: int = Field(description="denoising steps done, of those of all chunks")
    remaining_s: float | None = Field(description="of denoising, once a step has been timed")
    attempts: int
    credits: float
    is_kept: bool
    content_url: str | None
    thumbnail_url: str | None
    webhook_url: str | None


class VideoList(BaseModel):
    """Some videos of `total`, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[VideoState]
    first_id: str | None
    last_id: str | None
    has_more: bool
    total: int


class VideoDeleted(BaseModel):
    """A video that was cancelled or whose files go, in OpenAI's shape for one that was deleted; `state` is its own now.

    One that is being worked on ends at its next step: until then its state is what it was.
    """

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True
    state: str


class Kept(RequestBody):
    """Whether a video's files stay beyond their time."""

    kept: bool = True


class DeliveryState(BaseModel):
    """A webhook message and what became of it; times are unix seconds."""

    id: str
    video_id: str
    event: str
    url: str
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    status: int | None = Field(description="HTTP status of the last attempt's answer")
    error: str | None
    created_at: int
    next_attempt_at: int | None
    delivered_at: int | None


class DeliveryList(BaseModel):
    """The messages about a video, the newest first."""

    object: Literal["list"] = "list"
    data: list[DeliveryState]


class NewSecret(BaseModel):
    """What webhook messages are signed with from now on; told this once and never again."""

    secret: str


class Balance(BaseModel):
    """What an account can spend."""

    account: str
    credits: float


class Problem(BaseModel):
    """RFC 9457: the body of every 4xx and 5xx answer, as `application/problem+json`.

    `error` is the code and the sentence again, where clients of this server's other routes and OpenAI's look for them.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    error: dict[str, str]
