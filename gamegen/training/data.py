"""Windows for training, drawn from a buffer of clips.

A buffer takes rows from any source (Parquet files here, a Ray Data shard in `jobs/train.py`), prepares each once
and holds up to `capacity` of them. A batch is a pure function of (seed, rank, step) and the buffer's contents, so
a resumed run sees what the uninterrupted one would have seen whenever the data fits in the buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from gamegen.curation.decode import decode_clip
from gamegen.curation.encoded import EncodedClip
from gamegen.models.instructnet import Controls
from gamegen.models.msdit import Text
from gamegen.models.text import TextStates
from gamegen.models.vae import TEMPORAL_FACTOR, from_pixels
from gamegen.training.config import FlowLossConfig, StageConfig

Clip = TypeVar("Clip")
Row = dict[str, Any]


def read_rows(folder: Path, split: str) -> Iterator[Row]:
    """Rows of every Parquet shard of a split, file by file in name order; raises FileNotFoundError if none."""
    files = sorted((folder / f"split={split}").rglob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"no {split} shards under {folder}: run the curate and encode jobs first")
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=4):
            yield from batch.to_pylist()


class ClipBuffer(Generic[Clip]):
    """Up to `capacity` prepared clips; when full, each step exchanges one for the next of the source."""

    def __init__(self, rows: Iterator[Row], prepare: Callable[[Row], Clip], capacity: int, seed: int) -> None:
        self._rows, self._prepare, self._seed = rows, prepare, seed
        self.clips: list[Clip] = []
        self._exhausted = False
        while len(self.clips) < capacity and not self._exhausted:
            self._take(None)
        if not self.clips:
            raise ValueError("the data holds no clip of this split")

    def _take(self, place: int | None) -> None:
        row = next(self._rows, None)
        if row is None:
            self._exhausted = True
        elif place is None:
            self.clips.append(self._prepare(row))
        else:
            self.clips[place] = self._prepare(row)

    def generator(self, step: int, rank: int = 0) -> np.random.Generator:
        """The step's own random numbers; also moves the buffer on when its source has more."""
        if not self._exhausted:
            self._take(step % len(self.clips))
        return np.random.default_rng((self._seed, rank, step))


def prepare_pixels(row: Row) -> np.ndarray:
    """A curated row's frames, uint8 `(T, H, W, 3)`."""
    return decode_clip(row["video"])


def pixel_batch(
    buffer: ClipBuffer[np.ndarray], step: int, batch_size: int, window: int, crop: int, rank: int = 0
) -> Tensor:
    """Random crops, float32 `(B, 4 * window, 3, crop, crop)` in [-1, 1]; half of them mirrored."""
    rng = buffer.generator(step, rank)
    num_frames = window * TEMPORAL_FACTOR
    pieces = []
    for _ in range(batch_size):
        frames = buffer.clips[rng.integers(len(buffer.clips))]
        start = rng.integers(len(frames) - num_frames + 1)
        side = min(crop, frames.shape[1], frames.shape[2])
        y, x = (rng.integers(0, (frames.shape[a] - side) // 8 + 1) * 8 for a in (1, 2))
        piece = frames[start : start + num_frames, y : y + side, x : x + side]
        pieces.append(piece[:, :, ::-1] if rng.random() < 0.5 else piece)
    return from_pixels(torch.from_numpy(np.stack(pieces)))


@dataclass(frozen=True)
class LatentBatch:
    """Windows of latents, normalised, with what came before them.

    `latents` and `previous` `(B, T, C, h, w)`: `previous[:, i]` is the latent before `latents[:, i]`;
    `starts` `(B,)` is true where the window begins its clip, so that `previous[:, 0]` means nothing.
    `prompt` describes the scene the window shows; `first_prompt` the scene before the instruction in force, which
    is what a player's prompt says by then.
    """

    latents: Tensor
    previous: Tensor
    starts: Tensor
    prompt: Text
    first_prompt: Text
    controls: Controls

    def to(self, device: torch.device) -> LatentBatch:
        """The same on another device."""
        return LatentBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def training_batch(
    buffer: ClipBuffer[EncodedClip],
    step: int,
    config: StageConfig,
    normalise: Callable[[Tensor], Tensor],
    rank: int = 0,
) -> LatentBatch:
    """A step's batch: `config.batch_size` windows or, in `flow.image_share` of the steps, as many latents as
    single images. Every rank draws the same kind, so that none waits for another."""
    is_image = np.random.default_rng((config.seed, step)).random() < config.flow.image_share
    window = 1 if is_image else config.window
    batch_size = config.batch_size * config.window // window
    return latent_batch(buffer, step, batch_size, window, config.flow, normalise, rank)


def latent_batch(
    buffer: ClipBuffer[EncodedClip],
    step: int,
    batch_size: int,
    window: int,
    flow: FlowLossConfig,
    normalise: Callable[[Tensor], Tensor],
    rank: int = 0,
) -> LatentBatch:
    """Random windows; `flow.transition_windows` show an instruction taking effect, `flow.still_windows` a moment
    without keys, both where the clip has one.

    A window of one latent is an image: it counts as a start wherever it is from.
    """
    rng = buffer.generator(step, rank)
    rows = []
    for _ in range(batch_size):
        clip = buffer.clips[rng.integers(len(buffer.clips))]
        rows.append(_window(clip, window, _start(clip, window, flow, rng), rng))
    width = rows[0].prompt.tokens.shape[1]
    text = lambda states: Text.stack([s and (s.tokens, s.pooled) for s in states], width)  # noqa: E731
    controls = Controls(
        torch.stack([row.operations for row in rows]),
        torch.ones(batch_size, window, dtype=torch.bool),
        text([row.instruction for row in rows]),
        torch.stack([row.active for row in rows]),
    )
    return LatentBatch(
        normalise(torch.stack([row.latents for row in rows])),
        normalise(torch.stack([row.previous for row in rows])),
        torch.tensor([row.starts for row in rows]),
        text([row.prompt for row in rows]),
        text([row.first_prompt for row in rows]),
        controls,
    )


@dataclass(frozen=True)
class _Window:
    latents: Tensor
    previous: Tensor
    starts: bool
    operations: Tensor
    prompt: TextStates
    first_prompt: TextStates
    instruction: TextStates | None
    active: Tensor


def _start(clip: EncodedClip, window: int, flow: FlowLossConfig, rng: np.random.Generator) -> int:
    last = clip.num_chunks - window
    kind = rng.random()
    moments: list[int] = []
    if kind < flow.transition_windows:
        moments = [instruction.chunk for instruction in clip.instructions]
    elif kind < flow.transition_windows + flow.still_windows:
        moments = (clip.operations == 0).flatten(1).all(1).nonzero().flatten().tolist()
    if moments:
        return int(np.clip(moments[rng.integers(len(moments))] - rng.integers(window), 0, last))
    return int(rng.integers(last + 1))


def _window(clip: EncodedClip, window: int, start: int, rng: np.random.Generator) -> _Window:
    stop = start + window
    latents = clip.latents[start:stop].float()
    before = clip.latents[max(start - 1, 0)][None].float()
    said = [i for i in clip.instructions if i.chunk < stop]
    instruction = said[-1] if said else None
    begins = instruction.chunk if instruction else clip.num_chunks
    # A window across a change is described by what it turns into; without the instruction its text is dropped.
    scene = [segment for segment in clip.segments if segment.chunk < stop][-1]
    prompts = clip.segments[0].prompts
    return _Window(
        latents,
        torch.cat([before, latents[:-1]]),
        start == 0 or window == 1,
        clip.operations[start:stop].float(),
        scene.prompts[rng.integers(len(scene.prompts))],
        prompts[rng.integers(len(prompts))],
        instruction.states if instruction else None,
        (torch.arange(start, stop) >= begins).float(),
    )
