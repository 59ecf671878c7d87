"""Labels footage that has no key log: an inverse dynamics model reads keys and camera turns off the frames."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from random import Random

import numpy as np

from gamegen.constants import FPS
from gamegen.files import file_sha256
from gamegen.footage import captions
from gamegen.footage.clips import CAPTION_FIELDS, Clip, read_table
from gamegen.media.frames import resize_to
from gamegen.media.mp4 import ALL_CORES, iter_mp4, probe
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
    """A clip with keys and turns read off its video. Raises ValueError for an unreadable or too short one."""
    frames = _small_frames(video, model)
    actions = model.predict(frames)
    # What was done after the last frame shows in none.
    return dataclasses.replace(
        clip,
        num_frames=len(frames),
        keys=[*actions.names(), []],
        yaw_deg=[*actions.yaw_deg.tolist(), 0.0],
        pitch_deg=[*actions.pitch_deg.tolist(), 0.0],
    )


def label_video(video: Path, table: Path, scenery: Scenery, model: InverseDynamics) -> Clip:
    """The row, in the clip table `table`, of a video that has none. Each video counts as a world of its own.

    Raises ValueError for an unreadable video, fewer than two frames or another rate than 24 frames a second.
    """
    width, height, num_frames = _measure(video)
    digest = file_sha256(video)
    facts = captions.Facts(scenery.game, scenery.place, "", "", scenery.view)
    clip = Clip(
        clip_id=f"{scenery.game}-{video.stem}-{digest[:8]}",
        path=os.path.relpath(video, table.parent),
        sha256=digest,
        size_bytes=video.stat().st_size,
        game=scenery.game,
        licence=scenery.licence,
        world_seed=int(digest[:8], 16),
        fps=FPS,
        width=width,
        height=height,
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
    return labelled(clip, video, model)


def fill_in(source: Path, table: Path, model: InverseDynamics) -> list[Clip]:
    """The clips of the table `source` as rows of `table`: those without keys are labelled, the others unchanged."""
    clips = []
    for clip in read_table(source):
        video = source.parent / clip.path
        clip = dataclasses.replace(clip, path=os.path.relpath(video, table.parent))
        clips.append(clip if clip.keys else labelled(clip, video, model))
    return clips


def find_videos(source: Path) -> list[Path]:
    """A video file itself, or those under a folder in order of name; raises FileNotFoundError if there is none."""
    files = [source] if source.is_file() else sorted(source.rglob("*"))
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise FileNotFoundError(
            f"no video at {source}: give a file or a folder ({', '.join(VIDEO_SUFFIXES)})"
        )
    return videos


def _small_frames(video: Path, model: InverseDynamics) -> np.ndarray:
    """Frames at the model's own size: a long video does not fit into memory at its own."""
    size = (model.config.width, model.config.height)
    frames = [resize_to(frame[None], size)[0] for frame in iter_mp4(video, num_threads=ALL_CORES)]
    if not frames:
        raise ValueError(f"{video}: holds no video frames")
    return np.stack(frames)


def _measure(video: Path) -> tuple[int, int, int]:
    """Width and height in pixels and the number of frames."""
    size, rate, num_frames = probe(video)
    if rate is None or round(rate) != FPS:
        raise ValueError(f"{video} has {rate} frames a second: convert it to {FPS} (ffmpeg -r {FPS})")
    return *size, num_frames
