"""Windows of whole frames with their operations, for the stage that trains the streaming decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.models.folding import from_pixels
from gamegen.models.motion import NUM_OPERATIONS
from gamegen.training.feed import Row, WindowDataset
from gamegen.training.motion_windows import PlayedClip
from gamegen.training.window_plan import Sample


@dataclass(frozen=True)
class PlayedBatch:
    """Windows of T chunks: `frames` `(B, 4T, 3, H, W)` in [-1, 1] and `operations` as in a window of `PlayedClip`."""

    frames: Tensor
    operations: Tensor

    @property
    def num_chunks(self) -> int:
        """Chunks of a window."""
        return self.frames.shape[1] // FRAMES_PER_CHUNK

    def chunk(self, number: int) -> Tensor:
        """The frames of a chunk, `(B, 4, 3, H, W)`."""
        return self.frames[:, FRAMES_PER_CHUNK * number :][:, :FRAMES_PER_CHUNK]

    def operations_of(self, number: int) -> Tensor:
        """Operations `(B, NUM_OPERATIONS, 9)` that lead to the end of a chunk, of any but the first."""
        # A window's operations begin with those that lead to its third frame.
        return self.operations[:, FRAMES_PER_CHUNK * number - 2 :][:, :NUM_OPERATIONS]

    def to(self, device: torch.device) -> PlayedBatch:
        """The batch on another device."""
        return PlayedBatch(self.frames.to(device), self.operations.to(device))


class PlayedWindows(WindowDataset):
    """Windows of recorded clips, half of them mirrored."""

    length_column = "num_frames"

    def prepare(self, row: Row) -> PlayedClip:
        """A curated row's frames and operations. Raises ValueError for a clip without keys."""
        return replace(PlayedClip.from_row(row), track=None)

    def cut(self, clip: PlayedClip, sample: Sample, num_latents: int) -> PlayedClip:
        rng = sample.generator()
        num_frames = num_latents * FRAMES_PER_CHUNK
        start = sample.slot * num_frames + int(rng.integers(num_frames))
        window = clip.window(min(start, len(clip.frames) - num_frames), num_frames)
        return window.mirrored() if rng.random() < 0.5 else window

    def collate(self, windows: list[PlayedClip]) -> PlayedBatch:
        return PlayedBatch(
            from_pixels(torch.from_numpy(np.stack([window.frames for window in windows]))),
            torch.from_numpy(np.stack([window.operations for window in windows])).float(),
        )
