"""JSON bodies of the clip service: requests and responses."""

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

from deployments.limits import MAX_SEED
from deployments.request_schemas import Base64File, RequestBody
from deployments.videos.presets import ASPECT_RATIOS, RESOLUTIONS
from gamegen.constants import FPS
from gamegen.generation.spec import MAX_GUIDANCE_SCALE, MAX_STEPS
from gamegen.media.size import Size, check_file_size, check_frames
from gamegen.models.sampling import SOLVERS

MAX_PROMPT_CHARACTERS = 2000
MAX_URL_CHARACTERS = 2000
_MAX_SECONDS = 24 * 3600
"""No server draws a day; `VideoSettings` says how long its clips may be."""
_SIZE = r"^[0-9]{2,4}x[0-9]{2,4}$"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def _storable(text: str) -> str:
    found = _UNSTORABLE.search(text)
    if found:
        raise ValueError(f"the character at {found.start()} is NUL or a lone surrogate: remove it")
    return text


def _integer(value: Any) -> Any:
    # Forms send numbers as text, which a Literal of numbers does not accept.
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


Words = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=MAX_PROMPT_CHARACTERS),
    AfterValidator(_storable),
]
Name = Annotated[str, StringConstraints(max_length=256), AfterValidator(_storable)]


class NewVideo(RequestBody):
    """Order of a clip from a prompt, and optionally a first image or a video to continue."""

    prompt: Annotated[Words, StringConstraints(min_length=1)] = Field(examples=["sunny desert at noon"])
    negative_prompt: Words = Field("", description="what is not to be seen")
    perspective: Literal["first", "third"] = "first"
    image: Base64File | None = Field(None, description="a PNG, JPEG or WebP file in base64 to begin with")
    video: Base64File | None = Field(None, description="an MP4 or WebM file in base64 to go on from")
    num_frames: int | None = Field(None, ge=1, le=_MAX_SECONDS * FPS, description="drawn, at 24 a second")
    seconds: float | None = Field(None, gt=0, le=_MAX_SECONDS, description="instead of num_frames")
    size: str | None = Field(None, pattern=_SIZE, examples=["160x96"], description="WIDTHxHEIGHT in pixels")
    resolution: Literal[tuple(RESOLUTIONS)] | None = Field(None, description="instead of size")  # type: ignore[valid-type]
    aspect_ratio: Literal[tuple(ASPECT_RATIOS)] | None = Field(None, description="with resolution")  # type: ignore[valid-type]
    fps: Annotated[Literal[24, 30, 60], BeforeValidator(_integer)] = Field(
        24, description="of the file; 24 are drawn"
    )
    num_steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="of denoising, for each chunk")
    guidance_scale: float | None = Field(None, ge=0, le=MAX_GUIDANCE_SCALE)
    solver: Literal[SOLVERS] | None = Field(None, description="of the flow; heun takes two passes a step")  # type: ignore[valid-type]
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
            check_file_size(*Size.parse(size))
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
    """Reason of a failed video: a stable code and a message."""

    code: str
    message: str


class VideoState(BaseModel):
    """A video's state: OpenAI's fields and more; times are Unix seconds."""

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
    drawn_size: str = Field(description="of the frames that the model draws")
    upscaler: str | None = Field(description="what enlarges them to `size`")
    interpolated_from_fps: int | None = Field(
        description="frames a second that are drawn, if the file has more"
    )
    seconds: str
    quality: Literal["standard"] = "standard"
    error: VideoError | None
    negative_prompt: str
    perspective: str
    num_frames: int
    fps: int
    num_steps: int
    guidance_scale: float
    solver: str | None
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
    warnings: list[str] = Field(
        description="what costs more than it seems, or the model does not draw by itself"
    )


class VideoList(BaseModel):
    """A page of `total` videos, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[VideoState]
    first_id: str | None
    last_id: str | None
    has_more: bool
    total: int


class VideoDeleted(BaseModel):
    """A video that was cancelled or whose files are removed, in OpenAI's shape of a deletion, with its `state`.

    A video that is being generated ends at its next step and keeps its state until then.
    """

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True
    state: str


class Kept(RequestBody):
    """Exemption of a video's files from expiry."""

    kept: bool = True


class WebhookDelivery(BaseModel):
    """A webhook message and the state of its delivery; times are Unix seconds."""

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
    data: list[WebhookDelivery]


class NewSecret(BaseModel):
    """A new secret that signs webhook messages; no other response shows it again."""

    secret: str


class Balance(BaseModel):
    """An account's credits."""

    account: str
    credits: float
