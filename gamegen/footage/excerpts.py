"""Cuts short excerpts out of recorded clips: small real footage for tests and examples."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np

from gamegen.files import file_sha256
from gamegen.footage.clips import Clip, Instruction
from gamegen.media.footage import Footage
from gamegen.media.mp4 import write_mp4

PER_FRAME_COLUMNS = (
    "keys",
    "yaw_deg",
    "pitch_deg",
    "biome",
    "weather",
    "time_of_day",
    "view",
    "position",
    "heading_deg",
    "tilt_deg",
)
EXCERPT_CRF = 27


def cut_excerpt(clip: Clip, source: Path, output: Path, start: int, num_frames: int, clip_id: str) -> Clip:
    """Writes `num_frames` frames of a clip in folder `source`, from `start`, as `<output>/<clip_id>.mp4`.

    Returns the excerpt's row (not yet in a table): per-frame columns and instructions are cut alike.
    Prompts and caption describe the clip's first scene, so an excerpt must start before the clip's first
    change. Raises ValueError if it does not, or if the frames are not all in the clip.
    """
    if start < 0 or start + num_frames > clip.num_frames:
        raise ValueError(
            f"frames {start} to {start + num_frames - 1} are not all in {clip.clip_id}, "
            f"which has {clip.num_frames}: start earlier or cut fewer"
        )
    changed = [change.frame for change in clip.instructions if change.frame < start]
    if changed:
        raise ValueError(
            f"{clip.clip_id} changes at frame {changed[0]}: start there or earlier, not at {start}"
        )
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{clip_id}.mp4"
    frames = np.stack([*itertools.islice(Footage(source / clip.path).frames(), start, start + num_frames)])
    write_mp4(path, frames, clip.fps, EXCERPT_CRF)
    return dataclasses.replace(
        clip,
        clip_id=clip_id,
        path=path.name,
        sha256=file_sha256(path),
        size_bytes=path.stat().st_size,
        num_frames=num_frames,
        instructions=[
            Instruction(change.frame - start, change.kind, change.text, change.fields)
            for change in clip.instructions
            if start <= change.frame < start + num_frames - 1
        ],
        **{name: getattr(clip, name)[start : start + num_frames] for name in PER_FRAME_COLUMNS},
    )
