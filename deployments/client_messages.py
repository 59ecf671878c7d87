"""What clients say on the stream's socket, checked: `docs/protocol.md` describes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from gamegen.controls import FPS, FRAMES_PER_CHUNK, KEYS, MAX_CAMERA_DEG

MAX_PROMPT_CHARACTERS = 8000
"""Far above 300 tokens: it only keeps the tokenizer from reading books."""
MAX_BLEND_S = 10.0
PROTOCOL = 1
"""The version of the stream's messages, see docs/protocol.md."""
MAX_TURN_DEG = 360.0
"""Of one message, each way: a flick of the mouse is far below, a client's mistake in units is not."""
MAX_SEQUENCE = 2**32 - 1
Format = Literal["jpeg", "fmp4"]
"""What frames are sent as."""


class Body(BaseModel):
    """What a client sends, or a part of it: a field that is not known is an error, not ignored."""

    model_config = ConfigDict(extra="forbid")


def known_keys(keys: list[str]) -> list[str]:
    """The same keys; raises ValueError for one that is unknown."""
    for key in keys:
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r}: use some of {' '.join(KEYS)}")
    return keys


class KeyChange(Body):
    """Keys that went down (`state` true) or up (false)."""

    keys: list[str] = Field(max_length=32)
    state: bool

    _check_keys = field_validator("keys")(known_keys)


class Camera(Body):
    """Camera turn in degrees a frame, in force until the next one; positive turns right and looks down."""

    yaw_deg: float = Field(0.0, ge=-MAX_CAMERA_DEG, le=MAX_CAMERA_DEG)
    pitch_deg: float = Field(0.0, ge=-MAX_CAMERA_DEG, le=MAX_CAMERA_DEG)


class Turn(Body):
    """Camera turn in degrees in total since the last such message, as a mouse gives it; turns add up."""

    yaw_deg: float = Field(0.0, allow_inf_nan=False)
    pitch_deg: float = Field(0.0, allow_inf_nan=False)

    @field_validator("yaw_deg", "pitch_deg")
    @classmethod
    def _check_degrees(cls, degrees: float) -> float:
        if abs(degrees) > MAX_TURN_DEG:
            raise ValueError(
                f"{degrees:g} degrees and the limit is {MAX_TURN_DEG:g} each way: send smaller turns, more often"
            )
        return degrees


class SpokenInstruction(Body):
    """Words that change the world while it runs; empty words lift those in force."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_PROMPT_CHARACTERS)]
    blend_s: float = Field(0.0, ge=0, le=MAX_BLEND_S)
    parameters: dict[str, Any] = Field(default_factory=dict)

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        if parameters:
            raise ValueError(f"unknown parameter {next(iter(parameters))!r}: send an empty object")
        return parameters

    @property
    def blend_chunks(self) -> int:
        """How many chunks the change takes."""
        return round(self.blend_s * FPS / FRAMES_PER_CHUNK)


class FollowedVideo(Body):
    """Has the next chunks follow a video prompt that was uploaded; an empty id lifts the one there is."""

    id: str = Field(max_length=64)


class ControlMessage(Body):
    """What the player does; `timestamp` (milliseconds, client's clock) is echoed in the frames it changed."""

    type: Literal["control"]
    timestamp: float = Field(allow_inf_nan=False)
    keyboard: KeyChange | None = None
    camera: Camera | None = None
    turn: Turn | None = None
    instruction: SpokenInstruction | None = None
    video_prompt: FollowedVideo | None = None


class HelloMessage(Body):
    """Comes first: the session's token, and the version of the messages."""

    type: Literal["hello"]
    token: str = Field(max_length=128)
    protocol: int = PROTOCOL

    @field_validator("protocol")
    @classmethod
    def _check_protocol(cls, protocol: int) -> int:
        if protocol != PROTOCOL:
            raise ValueError(
                f"this server speaks version {PROTOCOL}, not {protocol}: use its own page or client"
            )
        return protocol


class SettingsMessage(Body):
    """How the world is sent: frames a second (fewer make it slower, not coarser), only each nth of them, and as what.

    `jpeg` is a file for each frame; `fmp4` a fragment of H.264 for each chunk, which has all its frames.
    """

    type: Literal["settings"]
    fps: int | None = Field(None, ge=4, le=24)
    every: Literal[1, 2, 4] | None = None
    format: Format | None = None


class PingMessage(Body):
    """Answered by a `pong` with the same timestamp."""

    type: Literal["ping"]
    timestamp: float = Field(allow_inf_nan=False)


class ByeMessage(Body):
    """The player leaves for good: the session ends."""

    type: Literal["bye"]


class SeenMessage(Body):
    """The newest frame received: whoever leaves too many unanswered is sent no more until it has caught up."""

    type: Literal["seen"]
    sequence: int = Field(ge=0, le=MAX_SEQUENCE)


ClientMessage = HelloMessage | ControlMessage | SeenMessage | SettingsMessage | PingMessage | ByeMessage
_TYPES = ("hello", "control", "seen", "settings", "ping", "bye")
_client_message: TypeAdapter[ClientMessage] = TypeAdapter(
    Annotated[ClientMessage, Field(discriminator="type")]
)


def parse_client_message(text: str, max_bytes: int) -> ClientMessage:
    """Reads a socket's text message; raises ValueError with a sentence that says what is wrong."""
    size_bytes = len(text.encode())
    if size_bytes > max_bytes:
        raise ValueError(
            f"the message has {size_bytes} bytes and the limit is {max_bytes}: send less at once"
        )
    try:
        return _client_message.validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "json_invalid":
            raise ValueError(f"not valid JSON: {message.removeprefix('Invalid JSON: ')}") from None
        place = ".".join(str(part) for part in problem["loc"] if part not in _TYPES)
        raise ValueError(f"{place}: {message}" if place else message) from None
