"""Session log: the inputs of a session, from which it can be drawn again frame for frame.

A chunk's picture depends on the world's beginning, the controls of each chunk, the words in force and the video prompt
that it follows: with the same model on the same type of device, the same log gives the same frames. As a file it is
written and read by `gamegen.sessions.log_file`.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from gamegen.controls import KEYS, Control

PromptKind = Literal["canny", "motion", "pose"]

_CONTROL = struct.Struct("<Hff")
CONTROL_BYTES = _CONTROL.size
"""Bytes of one chunk's control: a bit for each of `KEYS`, then yaw and pitch in degrees a frame, float32."""


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """Beginning of a world; `first_frames` is the file that it continues, width and height are pixels.

    The file is an image, a video or a recorded start (`gamegen.media.recorded_start`).
    """

    model: str
    prompt: str
    perspective: str
    seed: int
    width: int
    height: int
    first_frames: bytes | None = None


@dataclass(frozen=True)
class LoggedInstruction:
    """Instruction in force from chunk `chunk` on, fully after `blend_chunks` more; an empty text lifts it.

    Chunks count as `SessionLog.controls` do: first frames are none of them.
    """

    chunk: int
    text: str
    blend_chunks: int = 0


@dataclass(frozen=True)
class VideoPrompt:
    """Video file for chunks to follow: its edges (`canny`), its motion, or the poses that are drawn in it."""

    kind: PromptKind
    file: bytes

    @cached_property
    def id(self) -> str:
        """Identifier: a hash of kind and file."""
        return hashlib.sha256(self.kind.encode() + b"\0" + self.file).hexdigest()[:32]


@dataclass(frozen=True)
class LoggedVideoPrompt:
    """Video prompt, by id, that the world follows from chunk `chunk` on; an empty id lifts the one in force."""

    chunk: int
    video_prompt: str


@dataclass(frozen=True)
class SessionLog:
    """A world's beginning, one control for each chunk since, and the instructions and video prompts by chunk.

    `video_prompts` are those that are followed, by id.
    """

    spec: WorldSpec
    controls: list[Control] = field(default_factory=list)
    spoken: list[LoggedInstruction] = field(default_factory=list)
    followed: list[LoggedVideoPrompt] = field(default_factory=list)
    video_prompts: dict[str, VideoPrompt] = field(default_factory=dict)

    def until(self, num_chunks: int) -> SessionLog:
        """The log up to chunk `num_chunks`, where a branch can begin. Raises ValueError if it has fewer chunks."""
        if not 0 <= num_chunks <= len(self.controls):
            raise ValueError(f"chunk {num_chunks}: this session has {len(self.controls)}")
        spoken = [words for words in self.spoken if words.chunk < num_chunks]
        followed = [prompt for prompt in self.followed if prompt.chunk < num_chunks]
        prompts = {f.video_prompt: self.video_prompts[f.video_prompt] for f in followed if f.video_prompt}
        return SessionLog(self.spec, self.controls[:num_chunks], spoken, followed, prompts)

    def branch(self, num_chunks: int, controls: Sequence[Control]) -> SessionLog:
        """The log up to chunk `num_chunks`, then `controls`; instruction and video prompt stay. Raises ValueError."""
        beginning = self.until(num_chunks)
        return replace(beginning, controls=[*beginning.controls, *controls])


def rounded(control: Control) -> Control:
    """Rounds a control as the log does, so that play and replay draw the same frames."""
    return unpack_controls(pack_controls([control]))[0]


def pack_controls(controls: Iterable[Control]) -> bytes:
    """Packs controls into `CONTROL_BYTES` each."""
    packed = bytearray()
    for control in controls:
        mask = sum(1 << i for i, key in enumerate(KEYS) if key in control.keys)
        packed += _CONTROL.pack(mask, control.yaw_deg, control.pitch_deg)
    return bytes(packed)


def unpack_controls(packed: bytes) -> list[Control]:
    """Unpacks controls, the inverse of `pack_controls`; raises ValueError for damaged bytes."""
    if len(packed) % CONTROL_BYTES:
        raise ValueError(
            f"{len(packed)} bytes of controls: a multiple of {CONTROL_BYTES} was expected, some are missing"
        )
    return [_control(*fields) for fields in _CONTROL.iter_unpack(packed)]


def _control(mask: int, yaw_deg: float, pitch_deg: float) -> Control:
    if mask >> len(KEYS) or not (math.isfinite(yaw_deg) and math.isfinite(pitch_deg)):
        raise ValueError(
            f"control ({mask:#x}, {yaw_deg}, {pitch_deg}): an unknown key, or a turn that is not a finite number"
        )
    return Control((key for i, key in enumerate(KEYS) if mask >> i & 1), yaw_deg, pitch_deg)
