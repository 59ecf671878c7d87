"""JSON messages of clients on the stream's socket, checked with pydantic; `docs/protocol.md` describes them."""

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
    model_validator,
)

from deployments.request_schemas import without_nulls
from gamegen.constants import FPS, FRAMES_PER_CHUNK
from gamegen.controls import KEYS, MAX_CAMERA_DEG

MAX_PROMPT_CHARACTERS = 8000
"""Limit on a prompt's length, far above the 300 tokens that count: it only protects the tokenizer."""
MAX_BLEND_S = 10.0
PROTOCOL = 1
"""Version of the stream's messages, see docs/protocol.md."""
MAX_TURN_DEG = 360.0
"""Limit on one message's turn, each way: a flick of the mouse is far below, a mistake in units is not."""
MAX_SEQUENCE = 2**32 - 1
Format = Literal["jpeg", "fmp4"]
"""Format in which frames are sent."""


class Body(BaseModel):
    """Base of messages and of objects in them: an unknown field is an error, an optional one may be null."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, data: Any) -> Any:
        return without_nulls(cls, data)


def known_keys(keys: list[str]) -> list[str]:
    """Returns the keys; raises ValueError for an unknown one."""
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


class CameraTurn(Body):
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
    """Instruction that changes the world while it runs; an empty text lifts the one in force."""

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
        """Number of chunks that the change takes."""
        return round(self.blend_s * FPS / FRAMES_PER_CHUNK)


class FollowedVideo(Body):
    """Video prompt for the next chunks to follow, by the id of its upload; an empty id lifts the one in force."""

    id: str = Field(max_length=64)


class ControlMessage(Body):
    """Player's input; `timestamp` (milliseconds of the client's clock) is echoed in the frames that it changed."""

    type: Literal["control"]
    timestamp: float = Field(allow_inf_nan=False)
    keyboard: KeyChange | None = None
    camera: Camera | None = None
    turn: CameraTurn | None = None
    instruction: SpokenInstruction | None = None
    video_prompt: FollowedVideo | None = None


class HelloMessage(Body):
    """First message: the session's token, and the version of the messages."""

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
    """Frame rate (a lower one makes the world slower, not coarser), `every` nth frame only, and format.

    `jpeg` is a file for each frame; `fmp4` a fragment of H.264 for each chunk, which has all its frames.
    """

    type: Literal["settings"]
    fps: int | None = Field(None, ge=4, le=24)
    every: Literal[1, 2, 4] | None = None
    format: Format | None = None


class PingMessage(Body):
    """Ping, answered by a `pong` with its timestamp."""

    type: Literal["ping"]
    timestamp: float = Field(allow_inf_nan=False)


class ByeMessage(Body):
    """Goodbye: the session is deleted."""

    type: Literal["bye"]


class SeenMessage(Body):
    """Acknowledgement of the newest frame received; with too many unacknowledged frames no more are sent."""

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
