"""Held-out real clips, the reference of an evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from gamegen.curation import shards
from gamegen.footage import captions
from gamegen.footage.clips import Clip, read_table
from gamegen.media.footage import read_footage
from gamegen.media.frames import resize_to

SHIPPED_CLIPS = Path(__file__).with_name("clips")
"""Eight short recorded clips that come with the package."""
_HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class RealClip:
    """A clip with its recorded truth, and its video as MP4 bytes or a file."""

    clip: Clip
    video: bytes | Path

    def frames(self, size: tuple[int, int]) -> np.ndarray:
        """All frames at `size` = (width, height), cropped and area-averaged as in curation."""
        return resize_to(read_footage(self.video), size)

    def facts(self, frame: int) -> captions.Facts:
        """Recorded facts of one frame."""
        c = self.clip
        return captions.Facts(c.game, c.biome[frame], c.weather[frame], c.time_of_day[frame], c.view[frame])

    def prompt(self, frame: int) -> str:
        """A prompt for the scene of one frame, equal at every call."""
        return captions.compose_prompts(self.facts(frame), Random(f"{self.clip.clip_id}/{frame}"), 1)[0]


def held_out_clips(curated: Path) -> list[RealClip]:
    """The validation and test clips of curated shards, by clip id; raises ValueError if there are none."""
    columns = [*Clip.__dataclass_fields__, "video"]
    rows = list(shards.read_rows(curated, columns, _HELD_OUT))
    if not rows:
        raise ValueError(f"no validation or test clip under {curated}: give curated shards (gamegen curate)")
    clips = [
        RealClip(Clip.from_row({k: v for k, v in row.items() if k != "video"}), row["video"]) for row in rows
    ]
    return sorted(clips, key=lambda real: real.clip.clip_id)


def clips_in(folder: Path) -> list[RealClip]:
    """The clips of a folder of MP4s and clip tables, by clip id; raises FileNotFoundError without a table."""
    return [RealClip(clip, folder / clip.path) for clip in read_table(folder)]


def fingerprint(clips: list[RealClip]) -> str:
    """Hash of a set of clips, from the SHA-256 of their videos."""
    return hashlib.sha256("\n".join(real.clip.sha256 for real in clips).encode()).hexdigest()[:12]
