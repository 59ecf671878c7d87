"""Windows of pixels, for the stages that train an autoencoder's parts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gamegen.constants import TEMPORAL_FACTOR
from gamegen.media.mp4 import read_mp4
from gamegen.models.folding import from_pixels
from gamegen.training.feed import Row, WindowDataset
from gamegen.training.window_plan import Sample


class PixelWindows(WindowDataset):
    """Random crops of `crop` pixels a side; half of them mirrored."""

    length_column = "num_frames"

    def __init__(self, crop: int) -> None:
        self.crop = crop

    def prepare(self, row: Row) -> np.ndarray:
        """A curated row's frames, uint8 `(T, H, W, 3)`."""
        return read_mp4(row["video"])

    def cut(self, clip: np.ndarray, sample: Sample, num_latents: int) -> np.ndarray:
        rng = sample.generator()
        num_frames = num_latents * TEMPORAL_FACTOR
        start = min(sample.slot * num_frames + int(rng.integers(num_frames)), len(clip) - num_frames)
        side = min(self.crop, clip.shape[1], clip.shape[2])
        y, x = (rng.integers(0, (clip.shape[axis] - side) // 8 + 1) * 8 for axis in (1, 2))
        piece = clip[start : start + num_frames, y : y + side, x : x + side]
        return np.ascontiguousarray(piece[:, :, ::-1] if rng.random() < 0.5 else piece)

    def collate(self, windows: list[np.ndarray]) -> Tensor:
        """float32 `(B, T, 3, crop, crop)` in [-1, 1]."""
        return from_pixels(torch.from_numpy(np.stack(windows)))
