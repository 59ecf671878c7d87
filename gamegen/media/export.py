"""Videos exported for people: an MP4, or a contact sheet as one PNG, by the file's suffix."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gamegen.media.frames import check_pixels
from gamegen.media.mp4 import ALL_CORES, Mp4Writer, write_mp4
from gamegen.media.size import Size


def write_by_suffix(path: Path, frames: np.ndarray) -> None:
    """Writes an MP4, or a contact sheet if `path` ends in `.png`; raises ValueError for another suffix."""
    check_suffix(path)
    (write_contact_sheet if path.suffix == ".png" else write_mp4)(path, frames)


def write_as_it_comes(path: Path, video: Iterable[np.ndarray], num_frames: int) -> Size:
    """Writes a video of `num_frames` that comes in parts `uint8 (T, H, W, 3)`, as `write_by_suffix`; returns its size.

    Of an MP4 no more than a part is in memory, of a contact sheet the frames that it shows. Raises ValueError for
    another suffix, no frames, or a part of another size.
    """
    check_suffix(path)
    parts = iter(video)
    first = next(parts, np.empty((0, 2, 2, 3), np.uint8))
    check_pixels(first)
    size = Size(first.shape[2], first.shape[1])
    frames = (frame for part in itertools.chain([first], parts) for frame in part)
    if path.suffix == ".png":
        write_contact_sheet(path, np.stack([*_chosen(frames, sheet_frames(num_frames))]))
        return size
    with Mp4Writer.open(path, size, num_threads=ALL_CORES) as writer:
        for frame in frames:
            writer.write(frame)
    return size


def _chosen(frames: Iterable[np.ndarray], indices: np.ndarray) -> Iterator[np.ndarray]:
    """The frames of these ascending indices, each as often as it is named."""
    counts = np.bincount(indices)
    for index, frame in enumerate(frames):
        for _ in range(counts[index] if index < len(counts) else 0):
            yield frame


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
