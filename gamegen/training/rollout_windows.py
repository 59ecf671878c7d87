"""Windows of latents with the frames that were shown before them, for the stage that learns on its own rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.curation.encoded_clip import EncodedClip
from gamegen.media.mp4 import read_mp4
from gamegen.models.folding import from_pixels
from gamegen.training.feed import Row, WindowDataset
from gamegen.training.latent_windows import LatentBatch, LatentWindow, LatentWindows
from gamegen.training.window_plan import Sample


@dataclass(frozen=True, kw_only=True)
class RolloutBatch(LatentBatch):
    """A batch of windows; `shown` `(B, 2, 3, H, W)` in [-1, 1] are the last two frames of each one's first chunk."""

    shown: Tensor


class ShownClip(NamedTuple):
    """An encoded clip and the last two frames of each of its chunks, uint8 `(N, 2, H, W, 3)`."""

    clip: EncodedClip
    last_frames: np.ndarray


class RolloutWindows(WindowDataset):
    """Windows as `latent_windows` cuts them, each with the frames from which it can be played on."""

    length_column = LatentWindows.length_column

    def __init__(self, latent_windows: LatentWindows) -> None:
        self.latent_windows = latent_windows

    def prepare(self, row: Row) -> ShownClip:
        """An encoded row. Raises ValueError for one without its video."""
        if row.get("video") is None:
            raise ValueError(
                f"{row['clip_id']} was encoded without its frames: encode the clips again (gamegen encode)"
            )
        clip = self.latent_windows.prepare(row)
        frames = read_mp4(row["video"])[: clip.num_chunks * FRAMES_PER_CHUNK]
        chunks = frames.reshape(clip.num_chunks, FRAMES_PER_CHUNK, *frames.shape[1:])
        return ShownClip(clip, chunks[:, -2:].copy())

    def cut(self, clip: ShownClip, sample: Sample, num_latents: int) -> tuple[LatentWindow, np.ndarray]:
        window, start = self.latent_windows.cut_at(clip.clip, sample, num_latents)
        return window, clip.last_frames[start]

    def collate(self, windows: list[tuple[LatentWindow, np.ndarray]]) -> RolloutBatch:
        batch = self.latent_windows.collate([window for window, _ in windows])
        shown = from_pixels(torch.from_numpy(np.stack([frames for _, frames in windows])))
        return RolloutBatch(
            **{name: getattr(batch, name) for name in LatentBatch.__dataclass_fields__}, shown=shown
        )
