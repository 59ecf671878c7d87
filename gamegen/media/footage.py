"""Reading of footage: any video that whoever runs GameGen chose, at 24 frames a second by the times of its frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gamegen.media.mp4 import cannot_decode
from gamegen.media.video_file import VideoFile


class Footage:
    """A video of footage; equal to its stored frames if it was recorded at 24 a second.

    Everything raises ValueError, with the file and the reason, for a video that cannot be read.
    """

    def __init__(self, source: Path | bytes, num_threads: int = 1) -> None:
        self._source = source
        try:
            self._video = VideoFile.open(source, num_threads=num_threads)
        except ValueError as error:
            raise ValueError(f"{cannot_decode(source)}: {error}") from error
        self.size = self._video.size
        """Width and height in pixels, upright and with square pixels."""
        self.num_frames = self._video.num_frames
        """Number of frames at 24 a second."""

    def frames(self) -> Iterator[np.ndarray]:
        """Its frames at 24 a second one by one, uint8 `(H, W, 3)`."""
        try:
            yield from self._video.frames()
        except ValueError as error:
            raise ValueError(f"{cannot_decode(self._source)}: {error}") from error


def read_footage(source: Path | bytes) -> np.ndarray:
    """All frames of a video at 24 a second, uint8 `(T, H, W, 3)`; raises ValueError as `Footage`."""
    return np.stack([*Footage(source).frames()])
