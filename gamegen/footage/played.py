"""Play as footage: which stretches of a session become clips, and what the clip table says of each.

The columns of truth hold what was asked for (the prompt, and the words in force); whether the world obeyed is not
known. Positions and headings are not known either and are 0.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

from gamegen.constants import FPS, FRAMES_PER_CHUNK
from gamegen.controls import MOVEMENT_KEYS, Control
from gamegen.files import file_sha256
from gamegen.footage.captions import VIEW_WORDS
from gamegen.footage.clips import CAPTION_FIELDS, INSTRUCTION_FIELDS, Clip, Instruction
from gamegen.sessions.log import SessionLog
from gamegen.sessions.log_file import to_json

GAME = "gamegen"
MAX_CHUNKS = 120
"""Chunks of the longest clip: 20 s, as recorded clips have. Readers hold a whole clip in memory."""
_SCENE_CHARACTERS = 120
"""Of the prompt and of the words in force, in the name of a scene: prompts made of it must not get too long to read."""
_KINDS = {
    "perspective": ("person", "view", "camera", "eyes", "from behind"),
    "time": (
        "day",
        "noon",
        "dusk",
        "evening",
        "dawn",
        "morning",
        "night",
        "dark",
        "sunset",
        "sunrise",
        "the sun ",
    ),
    "weather": ("weather", "rain", "snow", "fog", "mist", "cloud", "sky", "storm", "dust", "wind", "sunny"),
}


@dataclass(frozen=True)
class Stretch:
    """Chunks `start` to `stop` of a session, and the words said in it as (chunk, text); those in force at its start
    come first."""

    start: int
    stop: int
    words: tuple[tuple[int, str], ...]

    @property
    def num_frames(self) -> int:
        """Its length in frames."""
        return (self.stop - self.start) * FRAMES_PER_CHUNK


def stretches(log: SessionLog, start: int = 0) -> list[Stretch]:
    """The clips that a session from chunk `start` on becomes: of about equal length, `MAX_CHUNKS` at most.

    Another begins where words are lifted, which the clip table cannot say.
    """
    # Of words said at once the last count.
    said = {words.chunk: words.text for words in log.spoken}
    in_force, changes = "", []
    for chunk, text in said.items():
        if text or in_force:
            changes.append((chunk, text))
        in_force = text
    lifted = [chunk for chunk, text in changes if not text and start < chunk < len(log.controls)]
    return [
        Stretch(begin, end, _words(changes, begin, end))
        for first, last in itertools.pairwise([start, *lifted, len(log.controls)])
        for begin, end in itertools.pairwise(_cuts(first, last))
    ]


def _cuts(first: int, last: int) -> list[int]:
    count = -(-(last - first) // MAX_CHUNKS)
    return [first + (last - first) * i // count for i in range(count + 1)] if count else []


def _words(changes: list[tuple[int, str]], begin: int, end: int) -> tuple[tuple[int, str], ...]:
    in_force = [text for chunk, text in changes if chunk <= begin][-1:]
    later = [(chunk, text) for chunk, text in changes if begin < chunk < end]
    return tuple((chunk, text) for chunk, text in [*((begin, text) for text in in_force), *later] if text)


def session_digest(log: SessionLog) -> str:
    """Names a session: equal ones have the same."""
    return hashlib.sha256(to_json(log).encode()).hexdigest()[:12]


def describe(log: SessionLog, stretch: Stretch, video: Path, licence: str) -> Clip:
    """The row of a stretch with the file `video` beside the table. Worlds are told apart by their seeds."""
    spec, num_frames = log.spec, stretch.num_frames
    prompt = f"{VIEW_WORDS[spec.perspective][0]}, {spec.prompt.strip()}"
    operations = _operations(log.controls[stretch.start : stretch.stop])
    scene = _scenes(log, stretch)
    return Clip(
        clip_id=video.stem,
        path=video.name,
        sha256=file_sha256(video),
        size_bytes=video.stat().st_size,
        game=GAME,
        licence=licence,
        world_seed=spec.seed,
        fps=FPS,
        width=spec.width,
        height=spec.height,
        num_frames=num_frames,
        perspective=spec.perspective,
        keys=[[key for key in MOVEMENT_KEYS if key in control.keys] for control in operations],
        yaw_deg=[control.camera_deg()[0] for control in operations],
        pitch_deg=[control.camera_deg()[1] for control in operations],
        biome=scene,
        weather=[""] * num_frames,
        time_of_day=[""] * num_frames,
        view=[spec.perspective] * num_frames,
        position=[[0.0, 0.0, 0.0]] * num_frames,
        heading_deg=[0.0] * num_frames,
        tilt_deg=[0.0] * num_frames,
        prompts=[prompt],
        caption=dict.fromkeys(CAPTION_FIELDS, "")
        | {"summary": prompt, "game_meta": f"drawn by {spec.model}"},
        instructions=[
            Instruction(
                _frame_before(chunk, stretch),
                instruction_kind(text),
                text,
                dict.fromkeys(INSTRUCTION_FIELDS, "") | {"transition": text},
            )
            for chunk, text in stretch.words
        ],
    )


def instruction_kind(text: str) -> str:
    """What free words are about, as the clip table has it: perspective, time, weather, else biome."""
    lower = text.lower()
    return next((kind for kind, names in _KINDS.items() if any(name in lower for name in names)), "biome")


def _operations(controls: list[Control]) -> list[Control]:
    """By frame, as the clip table has them: an operation stands one frame before the first that shows it.

    So that of a clip's first frame is left out, and nothing stands at its last.
    """
    shown = [control for control in controls for _ in range(FRAMES_PER_CHUNK)]
    return [*shown[1:], Control()]


def _frame_before(chunk: int, stretch: Stretch) -> int:
    """The frame after which the first of `chunk` comes; for a clip's own first frame that frame itself."""
    return max(0, (chunk - stretch.start) * FRAMES_PER_CHUNK - 1)


def _scenes(log: SessionLog, stretch: Stretch) -> list[str]:
    """For each frame what was asked for by then."""
    place = log.spec.prompt.strip()[:_SCENE_CHARACTERS].strip()
    scenes = [place] * stretch.num_frames
    for chunk, text in stretch.words:
        first = (chunk - stretch.start) * FRAMES_PER_CHUNK
        scenes[first:] = [f"{place}, {text.strip()[:_SCENE_CHARACTERS]}"] * (stretch.num_frames - first)
    return scenes
