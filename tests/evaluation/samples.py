"""Real clips for evaluations in tests."""

from __future__ import annotations

import shutil
from pathlib import Path

from gamegen.evaluation.real_clips import SHIPPED_CLIPS
from gamegen.footage.clips import read_table, write_table

FEW = ("forward", "left", "nightfall", "still", "third-turn")


def few_clips(folder: Path) -> str:
    """A folder of five of the shipped clips, which make two tasks of each measurement."""
    clips = [clip for clip in read_table(SHIPPED_CLIPS) if clip.clip_id in FEW]
    for clip in clips:
        shutil.copyfile(SHIPPED_CLIPS / clip.path, folder / clip.path)
    write_table(clips, folder / "clips.parquet")
    return str(folder)
