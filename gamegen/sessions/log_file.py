"""Session logs as JSON files, which people can read and write too; equal controls in a row are one run.

    {
      "format": "gamegen session",
      "version": 1,
      "world": {"model": "nano", "prompt": "desert at noon", "perspective": "first", "seed": 7,
                "width": 160, "height": 96, "image": null, "video": null, "gallery": null},
      "controls": [{"chunks": 12, "keys": ["w"], "yaw_deg": 0.0, "pitch_deg": 0.0}],
      "spoken": [{"chunk": 6, "text": "make it rain", "blend_chunks": 0}],
      "followed": [{"chunk": 9, "video_prompt": "walk"}],
      "video_prompts": [{"id": "walk", "kind": "motion", "video": "AAAAIGZ0eXA..."}]
    }

A world may continue a PNG, JPEG or WebP file, `image`, an MP4 or WebM file, `video`, or a recorded start, `gallery`,
in base64; video prompts are videos too.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import FailFast

from gamegen.config import build
from gamegen.constants import FPS, FRAMES_PER_CHUNK
from gamegen.controls import KEYS, Control
from gamegen.media.first_frames import check_video
from gamegen.media.images import MAX_IMAGE_BYTES, decode_image
from gamegen.media.kinds import is_image
from gamegen.media.recorded_start import MAX_START_BYTES, RecordedStart, is_recorded_start
from gamegen.media.size import check_size
from gamegen.media.untrusted import MAX_PROMPT_BYTES, MAX_PROMPT_S, MAX_VIDEO_BYTES, count_frames
from gamegen.sessions.log import (
    LoggedInstruction,
    LoggedVideoPrompt,
    PromptKind,
    SessionLog,
    VideoPrompt,
    WorldSpec,
    rounded,
)

FORMAT = "gamegen session"
VERSION = 1
MAX_CHUNKS = 24 * 3600 * FPS // FRAMES_PER_CHUNK
"""Limit on the chunks of a session: a day of play."""
MAX_FILE_BYTES = 96 * 1024 * 1024
MAX_TEXT_CHARACTERS = 8000
MAX_ID_CHARACTERS = 64
MAX_VIDEO_PROMPTS = 8
MAX_SEED = 2**63 - 1
MAX_TURN_DEG = 180.0
"""Limit on yaw and pitch of a control in degrees a frame; the world turns far slower."""
_MAX_MESSAGE_CHARACTERS = 400


@dataclass(frozen=True, kw_only=True)
class _WorldFields:
    """World specification in the file, checked."""

    model: str
    prompt: str
    perspective: Literal["first", "third"]
    seed: int
    width: int
    height: int
    image: str | None = None
    video: str | None = None
    gallery: str | None = None

    def __post_init__(self) -> None:
        for name in ("model", "prompt"):
            text = getattr(self, name)
            _check_text(name, text)
            if not text.strip():
                raise ValueError(f"{name} is empty: say which")
        _check_number("seed", self.seed, 0, MAX_SEED)
        check_size(self.width, self.height)
        given = [name for name in ("image", "video", "gallery") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} are both given: a world goes on from one of them, leave one out"
            )
        if self.image is not None:
            decode_image(_image_bytes(self.image))
        if self.video is not None:
            check_video(_video_bytes(self.video))
        if self.gallery is not None:
            RecordedStart.from_bytes(_start_bytes(self.gallery))

    def spec(self) -> WorldSpec:
        return WorldSpec(
            model=self.model,
            prompt=self.prompt,
            perspective=self.perspective,
            seed=self.seed,
            width=self.width,
            height=self.height,
            first_frames=self._first_frames(),
        )

    def _first_frames(self) -> bytes | None:
        if self.video is not None:
            return _video_bytes(self.video)
        if self.gallery is not None:
            return _start_bytes(self.gallery)
        return None if self.image is None else _image_bytes(self.image)


@dataclass(frozen=True, kw_only=True)
class _ControlRun:
    """Run of chunks with the same control."""

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
class _Prompt:
    """Video prompt in the file, checked."""

    id: str
    kind: PromptKind
    video: str

    def __post_init__(self) -> None:
        _check_text("id", self.id)
        if not 0 < len(self.id) <= MAX_ID_CHARACTERS:
            raise ValueError(f"id = {_short(repr(self.id))}: use 1 to {MAX_ID_CHARACTERS} characters")
        num_frames = count_frames(self.prompt().file, MAX_PROMPT_BYTES, MAX_PROMPT_S)
        if num_frames < FRAMES_PER_CHUNK:
            raise ValueError(
                f"video has {num_frames} frames at {FPS} a second: take at least {FRAMES_PER_CHUNK}"
            )

    def prompt(self) -> VideoPrompt:
        return VideoPrompt(self.kind, _bytes("video", self.video, MAX_PROMPT_BYTES, "an MP4 or WebM file"))


@dataclass(frozen=True, kw_only=True)
class _SessionFile:
    """Contents of the file, checked."""

    format: str
    version: int
    world: _WorldFields
    # A file that others made may have millions of entries, all of them wrong.
    controls: Annotated[list[_ControlRun], FailFast()]
    spoken: Annotated[list[LoggedInstruction], FailFast()]
    followed: Annotated[list[LoggedVideoPrompt], FailFast()] = field(default_factory=list)
    video_prompts: list[_Prompt] = field(default_factory=list)

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
        self._check_followed(num_chunks)

    def _check_followed(self, num_chunks: int) -> None:
        if len(self.video_prompts) > MAX_VIDEO_PROMPTS:
            raise ValueError(
                f"{len(self.video_prompts)} video_prompts and the limit is {MAX_VIDEO_PROMPTS}: leave some out"
            )
        known = {"", *(prompt.id for prompt in self.video_prompts)}
        if len(known) <= len(self.video_prompts):
            raise ValueError("video_prompts: an id is there twice, give each its own")
        earliest = 0
        for i, prompt in enumerate(self.followed):
            _check_number(f"followed[{i}].chunk", prompt.chunk, earliest, num_chunks)
            if prompt.video_prompt not in known:
                named = _short(repr(prompt.video_prompt))
                raise ValueError(
                    f"followed[{i}].video_prompt = {named}: there is none of this id in video_prompts"
                )
            earliest = prompt.chunk


def to_json(log: SessionLog) -> str:
    """Writes a log as a file's text, which `from_json` reads; controls are `rounded`.

    Raises ValueError for a log that could not be read again.
    """
    world = _world(log.spec)
    runs = [_run(control, len(list(same))) for control, same in itertools.groupby(map(rounded, log.controls))]
    head = {"format": FORMAT, "version": VERSION, "world": world}
    prompts = [
        {"id": name, "kind": prompt.kind, "video": base64.b64encode(prompt.file).decode()}
        for name, prompt in log.video_prompts.items()
    ]
    lists: dict[str, list] = {
        "controls": runs,
        "spoken": [asdict(words) for words in log.spoken],
        "followed": [asdict(prompt) for prompt in log.followed],
        "video_prompts": prompts,
    }
    files = [build(_Prompt, prompt, "video prompt") for prompt in prompts]
    beginning = build(_WorldFields, world, "world")
    _SessionFile(
        format=FORMAT,
        version=VERSION,
        world=beginning,
        controls=[_ControlRun(**run) for run in runs],
        spoken=log.spoken,
        followed=log.followed,
        video_prompts=files,
    )
    entries = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    for name, values in lists.items():
        lines = ",\n".join(f"    {json.dumps(value)}" for value in values)
        entries.append(f'  "{name}": [\n{lines}\n  ]' if lines else f'  "{name}": []')
    text = "{\n" + ",\n".join(entries) + "\n}\n"
    _check_length(len(text))
    return text


def from_json(text: str) -> SessionLog:
    """Reads the log from a file's text.

    Raises ValueError naming the field, its value and what to do for anything else; how long it is, and how large its
    image or video, is checked first.
    """
    _check_length(len(text))
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("not a session log: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(
            f"not a session log, or only a part of one: {_short(error)}; fetch or save it again"
        ) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f'not a session log: an object with "format": "{FORMAT}" was expected')
    if data.get("version") != VERSION or isinstance(data["version"], bool | float):
        found = _short(repr(data.get("version")))
        raise ValueError(f"version = {found}: this GameGen reads version {VERSION}, use one that knows yours")
    try:
        file = build(_SessionFile, data, "session log")
    except ValueError as error:
        raise ValueError(_short(error)) from None
    controls = [control for run in file.controls for control in run.controls()]
    prompts = {prompt.id: prompt.prompt() for prompt in file.video_prompts}
    return SessionLog(file.world.spec(), controls, file.spoken, file.followed, prompts)


def _run(control: Control, chunks: int) -> dict[str, Any]:
    # The shortest digits that give the same float32: 0.1 instead of 0.10000000149011612.
    yaw_deg, pitch_deg = (float(str(np.float32(x))) for x in (control.yaw_deg, control.pitch_deg))
    keys = [key for key in KEYS if key in control.keys]
    return {"chunks": chunks, "keys": keys, "yaw_deg": yaw_deg, "pitch_deg": pitch_deg}


def _world(spec: WorldSpec) -> dict[str, Any]:
    facts = {name: getattr(spec, name) for name in WorldSpec.__dataclass_fields__ if name != "first_frames"}
    files: dict[str, str | None] = {"image": None, "video": None, "gallery": None}
    file = spec.first_frames
    if file is not None:
        name = "gallery" if is_recorded_start(file) else "image" if is_image(file) else "video"
        files[name] = base64.b64encode(file).decode()
    return {**facts, **files}


def _image_bytes(text: str) -> bytes:
    return _bytes("image", text, MAX_IMAGE_BYTES, "a PNG, JPEG or WebP file")


def _video_bytes(text: str) -> bytes:
    return _bytes("video", text, MAX_VIDEO_BYTES, "an MP4 or WebM file")


def _start_bytes(text: str) -> bytes:
    return _bytes("gallery", text, MAX_START_BYTES, "a start of a gallery")


def _bytes(name: str, text: str, max_bytes: int, file: str) -> bytes:
    limit = -(-max_bytes // 3) * 4
    if len(text) > limit:
        raise ValueError(
            f"{name} has {len(text)} characters and the limit is {limit}: take {file} of at most {max_bytes} bytes"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name} is not valid base64: give {file} in base64, or null") from None


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
    """Shortens a message: one about a file that others made must not be as long as the file."""
    text = str(message)
    half = _MAX_MESSAGE_CHARACTERS // 2
    return text if len(text) <= 2 * half else f"{text[:half]} ... {text[-half:]}"
