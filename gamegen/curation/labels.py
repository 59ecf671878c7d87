"""Labels footage that has no key log: an inverse dynamics model reads keys and camera turns off the frames."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from random import Random

import numpy as np

from gamegen.constants import FPS
from gamegen.files import visible_files
from gamegen.footage import captions
from gamegen.footage.clips import CAPTION_FIELDS, Clip
from gamegen.media.footage import Footage
from gamegen.media.frames import resize_to
from gamegen.media.kinds import is_video_file
from gamegen.media.mp4 import ALL_CORES
from gamegen.models.inverse_dynamics import InverseDynamics

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov")


@dataclasses.dataclass(frozen=True)
class Scenery:
    """What is known of footage besides its frames: words for the place, whose eyes it is seen through, rights."""

    game: str = "own"
    place: str = "game world"
    view: str = "first"
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if self.view not in captions.VIEW_WORDS:
            raise ValueError(f"view = {self.view!r}: use one of {', '.join(captions.VIEW_WORDS)}")


def labelled(clip: Clip, video: Path, model: InverseDynamics) -> Clip:
    """A clip with keys and turns read off its video.

    Raises ValueError for an unreadable or too short one, or one that does not show the clip's number of frames.
    """
    frames = _small_frames(Footage(video, ALL_CORES), model)
    if len(frames) != clip.num_frames:
        raise ValueError(f"{video} shows {len(frames)} frames, the clip table says {clip.num_frames}")
    return _with_actions(clip, frames, model)


def label_video(video: Path, digest: str, table: Path, scenery: Scenery, model: InverseDynamics) -> Clip:
    """The row, in the clip table `table`, of a video that has none. Each video counts as a world of its own.

    `digest` is the file's SHA-256. Raises ValueError for an unreadable video, or fewer than two frames at 24 a second.
    """
    footage = Footage(video, ALL_CORES)
    frames = _small_frames(footage, model)
    num_frames = len(frames)
    facts = captions.Facts(scenery.game, scenery.place, "", "", scenery.view)
    clip = Clip(
        clip_id=clip_id_of(video, digest, scenery),
        path=os.path.relpath(video, table.parent),
        sha256=digest,
        size_bytes=video.stat().st_size,
        game=scenery.game,
        licence=scenery.licence,
        world_seed=int(digest[:8], 16),
        fps=FPS,
        width=footage.size.width,
        height=footage.size.height,
        num_frames=num_frames,
        perspective=scenery.view,
        keys=[],
        yaw_deg=[],
        pitch_deg=[],
        biome=[scenery.place] * num_frames,
        weather=[""] * num_frames,
        time_of_day=[""] * num_frames,
        view=[scenery.view] * num_frames,
        position=[[0.0, 0.0, 0.0]] * num_frames,
        heading_deg=[0.0] * num_frames,
        tilt_deg=[0.0] * num_frames,
        prompts=captions.compose_prompts(facts, Random(digest)),
        caption=dict.fromkeys(CAPTION_FIELDS, ""),
        instructions=[],
    )
    return _with_actions(clip, frames, model)


def clip_id_of(video: Path, digest: str, scenery: Scenery) -> str:
    """The id of a video's clip; `digest` is the file's SHA-256."""
    return f"{scenery.game}-{video.stem}-{digest[:8]}"


def find_videos(source: Path) -> list[Path]:
    """A video file itself, or those under a folder in order of name, told by their bytes or their suffix.

    Raises FileNotFoundError if there is none.
    """
    files = visible_files(source) if source.is_dir() else [source] if source.is_file() else []
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES or is_video_file(file)]
    if not videos:
        raise FileNotFoundError(
            f"no video at {source}: give a file or a folder ({', '.join(VIDEO_SUFFIXES)})"
        )
    return videos


def _with_actions(clip: Clip, frames: np.ndarray, model: InverseDynamics) -> Clip:
    actions = model.predict(frames)
    # What was done after the last frame shows in none.
    return dataclasses.replace(
        clip,
        keys=[*actions.names(), []],
        yaw_deg=[*actions.yaw_deg.tolist(), 0.0],
        pitch_deg=[*actions.pitch_deg.tolist(), 0.0],
    )


def _small_frames(footage: Footage, model: InverseDynamics) -> np.ndarray:
    """Frames at the model's own size: a long video does not fit into memory at its own."""
    size = (model.config.width, model.config.height)
    return np.stack([resize_to(frame[None], size)[0] for frame in footage.frames()])
