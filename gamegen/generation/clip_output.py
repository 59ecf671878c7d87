"""A clip written to a file as it is drawn: an MP4, or a contact sheet as one PNG, by the file's suffix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from gamegen.generation.clip_files import ClipWriter
from gamegen.media.enlarging import bring_to
from gamegen.media.export import check_suffix, sheet_frames, write_contact_sheet
from gamegen.media.size import Size


def write_clip(
    path: Path, video: Iterable[np.ndarray], num_frames: int, *, size: Size, drawn: Size, fps: int
) -> None:
    """Writes a clip of `num_frames` that come in parts, uint8 `(T, H, W, 3)` of the size `drawn`, as a file of `size`.

    No more than a part is in memory, for a contact sheet the frames that it shows. Raises ValueError for another
    suffix, a rate or a size that no clip has, and for fewer frames.
    """
    check_suffix(path)
    if path.suffix == ".png":
        write_contact_sheet(path, bring_to(np.stack([*_chosen(video, sheet_frames(num_frames))]), size))
        return
    with ClipWriter.open(path, size, num_frames, fps, drawn) as writer:
        for part in video:
            writer.add(part)


def _chosen(video: Iterable[np.ndarray], indices: np.ndarray) -> Iterator[np.ndarray]:
    """The frames of these ascending indices, each as often as it is named."""
    counts = np.bincount(indices)
    frames = (frame for part in video for frame in part)
    for index, frame in enumerate(frames):
        for _ in range(counts[index] if index < len(counts) else 0):
            yield frame
