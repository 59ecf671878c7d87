"""What a session was played by: enough to draw it again, frame for frame.

A chunk's picture depends on the world's beginning, the controls of each chunk and the words in force: with the same
model on the same type of device, the same log gives the same frames.

As a file it is JSON (`to_json`, `from_json`) that people can read and write too; equal controls in a row are one run:

    {
      "format": "gamegen session",
      "version": 1,
      "world": {"model": "nano", "prompt": "desert at noon", "perspective": "first", "seed": 7,
                "width": 160, "height": 96, "image": null},
      "controls": [{"chunks": 12, "keys": ["w"], "yaw_deg": 0.0, "pitch_deg": 0.0}],
      "spoken": [{"chunk": 6, "text": "make it rain", "blend_chunks": 0}]
    }

`image` is a PNG or JPEG file in base64.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from gamegen.config import build
from gamegen.controls import FPS, FRAMES_PER_CHUNK, KEYS, Control
from gamegen.video import MAX_IMAGE_BYTES, check_size, decode_image

FORMAT = "gamegen session"
VERSION = 1
MAX_CHUNKS = 24 * 3600 * FPS // FRAMES_PER_CHUNK
"""Chunks of a day of play: the longest session that is read."""
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_TEXT_CHARACTERS = 8000
MAX_SEED = 2**63 - 1
MAX_TURN_DEG = 180.0
"""Yaw or pitch of a control in degrees a frame; the world turns far slower."""
_MAX_MESSAGE_CHARACTERS = 400

_CONTROL = struct.Struct("<Hff")
CONTROL_BYTES = _CONTROL.size
"""Bytes of one chunk's control: a bit for each of `KEYS`, then yaw and pitch in degrees a frame, float32."""


@dataclass(frozen=True)
class WorldSpec:
    """How a world begins; `image` is a PNG or JPEG file to begin with, size in pixels."""

    model: str
    prompt: str
    perspective: str
    seed: int
    width: int
    height: int
    image: bytes | None = None


@dataclass(frozen=True)
class Spoken:
    """Words in force from chunk `chunk` on, fully after `blend_chunks` more; empty words lift those in force.

    Chunks count as `SessionLog.controls` do: a starting image is none of them.
    """

    chunk: int
    text: str
    blend_chunks: int = 0


@dataclass(frozen=True)
class SessionLog:
    """A world's beginning, one control for each chunk made since, and what was said when."""

    spec: WorldSpec
    controls: list[Control] = field(default_factory=list)
    spoken: list[Spoken] = field(default_factory=list)

    def until(self, num_chunks: int) -> SessionLog:
        """The beginning of it: where another session can branch off. Raises ValueError if it is not that long."""
        if not 0 <= num_chunks <= len(self.controls):
            raise ValueError(f"chunk {num_chunks}: this session has {len(self.controls)}")
        spoken = [words for words in self.spoken if words.chunk < num_chunks]
        return SessionLog(self.spec, self.controls[:num_chunks], spoken)

    def branch(self, num_chunks: int, controls: Sequence[Control]) -> SessionLog:
        """The same up to chunk `num_chunks`, then `controls`; words in force there stay. Raises ValueError."""
        beginning = self.until(num_chunks)
        return replace(beginning, controls=[*beginning.controls, *controls])


def rounded(control: Control) -> Control:
    """The control as a log keeps it: whoever draws by it and whoever draws by the log draw the same."""
    return unpack_controls(pack_controls([control]))[0]


def pack_controls(controls: Iterable[Control]) -> bytes:
    """`CONTROL_BYTES` for each."""
    packed = bytearray()
    for control in controls:
        mask = sum(1 << i for i, key in enumerate(KEYS) if key in control.keys)
        packed += _CONTROL.pack(mask, control.yaw_deg, control.pitch_deg)
    return bytes(packed)


def unpack_controls(packed: bytes) -> list[Control]:
    """The inverse; raises ValueError where the bytes are not that."""
    if len(packed) % CONTROL_BYTES:
        raise ValueError(
            f"{len(packed)} bytes of controls: a multiple of {CONTROL_BYTES} was expected, some are missing"
        )
    return [_control(*fields) for fields in _CONTROL.iter_unpack(packed)]


def _control(mask: int, yaw_deg: float, pitch_deg: float) -> Control:
    if mask >> len(KEYS) or not (math.isfinite(yaw_deg) and math.isfinite(pitch_deg)):
        raise ValueError(
            f"control ({mask:#x}, {yaw_deg}, {pitch_deg}): an unknown key, or a turn that is no number"
        )
    return Control((key for i, key in enumerate(KEYS) if mask >> i & 1), yaw_deg, pitch_deg)


@dataclass(frozen=True)
class _World:
    """`WorldSpec` as the file has it, checked."""

    model: str
    prompt: str
    perspective: Literal["first", "third"]
    seed: int
    width: int
    height: int
    image: str | None = None

    def __post_init__(self) -> None:
        for name in ("model", "prompt"):
            text = getattr(self, name)
            _check_text(name, text)
            if not text.strip():
                raise ValueError(f"{name} is empty: say which")
        _check_number("seed", self.seed, 0, MAX_SEED)
        check_size(self.width, self.height)
        if self.image is not None:
            _image_bytes(self.image)

    def spec(self) -> WorldSpec:
        image = None if self.image is None else _image_bytes(self.image)
        return WorldSpec(self.model, self.prompt, self.perspective, self.seed, self.width, self.height, image)


@dataclass(frozen=True)
class _Run:
    """The same control for some chunks."""

    chunks: int
    keys: list[str]
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0

    def __post_init__(self) -> None:
        _check_number("chunks", self.chunks, 1, MAX_CHUNKS)
        for name in ("yaw_deg", "pitch_deg"):
            _check_number(name, getattr(self, name), -MAX_TURN_DEG, MAX_TURN_DEG)
        Control(self.keys)

    def controls(self) -> list[Control]:
        return [rounded(Control(self.keys, self.yaw_deg, self.pitch_deg))] * self.chunks


@dataclass(frozen=True)
class _File:
    format: str
    version: int
    world: _World
    controls: list[_Run]
    spoken: list[Spoken]

    def __post_init__(self) -> None:
        num_chunks = sum(run.chunks for run in self.controls)
        if num_chunks > MAX_CHUNKS:
            raise ValueError(
                f"controls are {num_chunks} chunks and the limit is {MAX_CHUNKS}, a day: leave some out"
            )
        earliest = 0
        for i, words in enumerate(self.spoken):
            _check_number(f"spoken[{i}].chunk", words.chunk, earliest, num_chunks)
            _check_number(f"spoken[{i}].blend_chunks", words.blend_chunks, 0, MAX_CHUNKS)
            _check_text(f"spoken[{i}].text", words.text)
            earliest = words.chunk


def to_json(log: SessionLog) -> str:
    """The log as a file's text, `from_json` reads it; controls as `rounded`.

    Raises ValueError for a log that could not be read again.
    """
    image = None if log.spec.image is None else base64.b64encode(log.spec.image).decode()
    world = {**{name: getattr(log.spec, name) for name in WorldSpec.__dataclass_fields__}, "image": image}
    runs = [_run(control, len(list(same))) for control, same in itertools.groupby(map(rounded, log.controls))]
    head = {"format": FORMAT, "version": VERSION, "world": world}
    lists: dict[str, list] = {"controls": runs, "spoken": [asdict(words) for words in log.spoken]}
    _File(FORMAT, VERSION, build(_World, world, "world"), [_Run(**run) for run in runs], log.spoken)
    entries = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    for name, values in lists.items():
        lines = ",\n".join(f"    {json.dumps(value)}" for value in values)
        entries.append(f'  "{name}": [\n{lines}\n  ]' if lines else f'  "{name}": []')
    text = "{\n" + ",\n".join(entries) + "\n}\n"
    _check_length(len(text))
    return text


def from_json(text: str) -> SessionLog:
    """The log that a file's text holds.

    Raises ValueError naming the field, its value and what to do for anything else; how long it is, and how large its
    image, is checked first.
    """
    _check_length(len(text))
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("this is no session log: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(
            f"this is no session log, or only a part of one: {_short(error)}; fetch or save it again"
        ) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f'this is no session log: an object with "format": "{FORMAT}" was expected')
    if data.get("version") != VERSION or isinstance(data["version"], bool | float):
        found = _short(repr(data.get("version")))
        raise ValueError(f"version = {found}: this GameGen reads version {VERSION}, use one that knows yours")
    try:
        file = build(_File, data, "session log")
    except ValueError as error:
        raise ValueError(_short(error)) from None
    return SessionLog(
        file.world.spec(), [control for run in file.controls for control in run.controls()], file.spoken
    )


def _run(control: Control, chunks: int) -> dict[str, Any]:
    # The shortest digits that give the same float32: 0.1 instead of 0.10000000149011612.
    yaw_deg, pitch_deg = (float(str(np.float32(x))) for x in (control.yaw_deg, control.pitch_deg))
    keys = [key for key in KEYS if key in control.keys]
    return {"chunks": chunks, "keys": keys, "yaw_deg": yaw_deg, "pitch_deg": pitch_deg}


def _image_bytes(text: str) -> bytes:
    limit = -(-MAX_IMAGE_BYTES // 3) * 4
    if len(text) > limit:
        raise ValueError(
            f"image has {len(text)} characters and the limit is {limit}: take a picture of at most "
            f"{MAX_IMAGE_BYTES} bytes"
        )
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("image is not valid base64: give a PNG or JPEG file in base64, or null") from None
    decode_image(data)
    return data


def _check_number(name: str, value: float, low: float, high: float) -> None:
    # Written so that NaN is refused too.
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}: give a number from {low} to {high}")


def _check_text(name: str, text: str) -> None:
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(
            f"{name} has {len(text)} characters and the limit is {MAX_TEXT_CHARACTERS}: shorten it"
        )
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} = {text!r} is not valid Unicode: write it again")


def _check_length(num_characters: int) -> None:
    if num_characters > MAX_FILE_BYTES:
        raise ValueError(
            f"the session log has {num_characters} characters and the limit is {MAX_FILE_BYTES}: cut it"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"{twice!r} is there twice")
    return fields


def _short(message: object) -> str:
    """A sentence about a file that others made must not be as long as the file."""
    text = str(message)
    half = _MAX_MESSAGE_CHARACTERS // 2
    return text if len(text) <= 2 * half else f"{text[:half]} ... {text[-half:]}"
