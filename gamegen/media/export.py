"""Videos exported for people: an MP4, or a contact sheet as one PNG, by the file's suffix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from gamegen.media.frames import check_pixels
from gamegen.media.mp4 import write_mp4


def write_by_suffix(path: Path, frames: np.ndarray) -> None:
    """Writes an MP4, or a contact sheet if `path` ends in `.png`; raises ValueError for another suffix."""
    check_suffix(path)
    (write_contact_sheet if path.suffix == ".png" else write_mp4)(path, frames)


def check_suffix(path: Path) -> None:
    """Raises ValueError unless `write_by_suffix` can write `path`."""
    if path.suffix not in (".mp4", ".png"):
        raise ValueError(f"cannot write {path}: end it in .mp4 for a video or .png for a contact sheet")


def write_contact_sheet(path: str | Path, frames: np.ndarray, columns: int = 4, rows: int = 2) -> None:
    """Writes frames spread evenly over a video, reading order, as one PNG; raises ValueError as `write_mp4`."""
    check_pixels(frames)
    chosen = frames[sheet_frames(len(frames), columns * rows)]
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in np.split(chosen, rows)])
    Image.fromarray(sheet).save(path)


def sheet_frames(num_frames: int, count: int = 8) -> np.ndarray:
    """Indices of the frames that a contact sheet of `count` shows, int `(count,)`."""
    return np.linspace(0, num_frames - 1, count).round().astype(int)
