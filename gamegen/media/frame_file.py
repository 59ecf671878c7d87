"""Frames of a video on disk, uncompressed: a long one would fill the memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gamegen.media.frames import check_pixels
from gamegen.media.size import Size


class FrameFile:
    """Frames `uint8 (T, H, W, 3)` of `size`, written one after the other and then read in parts, any number of times.

    It is not mapped into memory: what is mapped counts as the process's own.
    """

    def __init__(self, path: Path, size: Size) -> None:
        self._path = path
        self._size = size
        self._count = 0
        path.write_bytes(b"")

    def __len__(self) -> int:
        return self._count

    def append(self, frames: np.ndarray) -> None:
        """Adds frames, uint8 `(T, H, W, 3)`; raises ValueError for another size."""
        check_pixels(frames)
        if frames.shape[1:3] != (self._size.height, self._size.width):
            raise ValueError(f"frames of {frames.shape[2]}x{frames.shape[1]} in a file of {self._size}")
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(frames).data)
        self._count += len(frames)

    def cut(self, num_frames: int) -> None:
        """Leaves out the frames beyond `num_frames`."""
        self._count = min(self._count, num_frames)

    def parts(self, num_frames: int) -> Iterator[np.ndarray]:
        """All frames, so many at a time, uint8 `(T, H, W, 3)` each; the last part may have fewer."""
        shape = (self._size.height, self._size.width, 3)
        frame_bytes = int(np.prod(shape))
        with self._path.open("rb") as file:
            for start in range(0, self._count, num_frames):
                count = min(num_frames, self._count - start)
                data = np.frombuffer(file.read(count * frame_bytes), np.uint8)
                yield data.reshape(count, *shape)
