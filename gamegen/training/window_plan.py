"""Plan of the windows that each step trains on: pure arithmetic, equal on every machine.

A step takes `micro_batches` micro-batches of one bucket. Micro-batch m of every step comes from stream m, a fixed
share of the bucket's windows in an endless order: epoch after epoch, each window once an epoch (or `repeats` times).
How many workers share the streams changes nothing about what a step learns from, and a run's position in its data is
one number a bucket.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.curation.buckets import Bucket
from gamegen.curation.row_groups import column_by_group, shard_files

if TYPE_CHECKING:
    from gamegen.training.stage_config import StageConfig, TrainingBucket


@dataclass(frozen=True)
class ClipRow:
    """Location of a clip: a row of a row group of a shard. `num_latents` is its length in latent frames."""

    file: str
    group: int
    row: int
    num_latents: int


@dataclass(frozen=True)
class Sample:
    """One window to cut.

    Slot `slot` of a clip is the part where the window begins, unless the dataset puts it around a chosen moment.
    `seed` makes the choice; it differs from epoch to epoch.
    """

    clip: ClipRow
    slot: int
    seed: tuple[int, ...]

    def generator(self) -> np.random.Generator:
        """A generator seeded for this sample alone."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class WindowStream:
    """An endless order of windows: each epoch all of `slots`, shuffled, pool by pool.

    A pool is what a reader holds at once: its clips are read once an epoch and their windows mixed.
    """

    slots: tuple[tuple[ClipRow, int], ...]
    seed: tuple[int, ...]
    pool_clips: int

    def pools(self, epoch: int) -> list[list[Sample]]:
        """The samples of one epoch, in order."""
        rng = np.random.default_rng((*self.seed, epoch))
        groups: dict[tuple[str, int], list[int]] = {}
        for index, (clip, _) in enumerate(self.slots):
            groups.setdefault((clip.file, clip.group), []).append(index)
        # Whole row groups together: a reader unpacks each once.
        order = [list(groups.values())[i] for i in rng.permutation(len(groups))]
        pools: list[list[int]] = [[]]
        for indices in order:
            if pools[-1] and self._num_clips([*pools[-1], *indices]) > self.pool_clips:
                pools.append([])
            pools[-1] += indices
        return [[self._sample(pool[i], epoch) for i in rng.permutation(len(pool))] for pool in pools]

    def _num_clips(self, indices: list[int]) -> int:
        return len({self.slots[i][0] for i in indices})

    def _sample(self, index: int, epoch: int) -> Sample:
        clip, slot = self.slots[index]
        return Sample(clip, slot, (*self.seed, epoch, index))

    def pools_from(self, position: int) -> Iterator[list[Sample]]:
        """Endless pools, from the sample at `position` of the endless order on."""
        epoch, skip = divmod(position, len(self.slots))
        while True:
            for pool in self.pools(epoch):
                if skip < len(pool):
                    yield pool[skip:]
                skip = max(0, skip - len(pool))
            epoch += 1


@dataclass(frozen=True)
class BucketPlan:
    """A bucket's streams and the number of samples that each gives to one step."""

    bucket: TrainingBucket
    streams: tuple[WindowStream, ...]
    micro_batch_size: int


class WindowPlan:
    """Buckets and streams of a stage, and the bucket of each step."""

    def __init__(self, config: StageConfig, clips: dict[str, list[ClipRow]]) -> None:
        """`clips` by size ("160x96"); raises ValueError where a bucket finds too few windows."""
        self.config = config
        self.buckets = {
            bucket.name: plan_bucket(config, bucket, clips.get(bucket.size, [])) for bucket in config.buckets
        }

    def bucket_of(self, step: int) -> str:
        """The bucket of a step, equal on every worker."""
        buckets = self.config.buckets
        weights = np.array([bucket.probability for bucket in buckets])
        rng = np.random.default_rng((self.config.seed, step))
        return buckets[int(rng.choice(len(buckets), p=weights / weights.sum()))].name


def plan_bucket(config: StageConfig, bucket: TrainingBucket, clips: list[ClipRow]) -> BucketPlan:
    """Divides a bucket's windows among the streams; raises ValueError if there are too few."""
    window = bucket.num_latents
    slots = [
        (clip, slot)
        for clip in clips
        for _ in range(config.repeats)
        for slot in range(clip.num_latents // window)
    ]
    num_streams = config.micro_batches
    if len(slots) < num_streams:
        raise ValueError(
            f"bucket {bucket.name} has {len(slots)} windows of {bucket.num_frames} frames for {num_streams} "
            f"micro-batches: curate more clips of {bucket.size} with at least {bucket.num_frames} frames, or take "
            "the bucket out of the stage"
        )
    bounds = [len(slots) * i // num_streams for i in range(num_streams + 1)]
    name = zlib.crc32(bucket.name.encode())
    streams = tuple(
        WindowStream(tuple(slots[bounds[i] : bounds[i + 1]]), (config.seed, name, i), config.pool_clips)
        for i in range(num_streams)
    )
    return BucketPlan(bucket, streams, config.micro_batch_size(bucket))


def index_clips(folder: Path, split: str, length_column: str) -> dict[str, list[ClipRow]]:
    """The clips of a split by size ("160x96"), in the order of their files.

    `length_column` is `num_chunks` of encoded shards or `num_frames` of curated ones.
    Raises FileNotFoundError if there is no shard.
    """
    files = shard_files(folder, split)
    if not files:
        raise FileNotFoundError(f"no {split} shards under {folder}: run the curate and encode jobs first")
    clips: dict[str, list[ClipRow]] = {}
    for file in files:
        bucket = Bucket.parse(file.parent.name.removeprefix("bucket="))
        found = clips.setdefault(f"{bucket.width}x{bucket.height}", [])
        for group, lengths in enumerate(column_by_group(file, length_column)):
            for row, length in enumerate(lengths):
                num_latents = length // FRAMES_PER_CHUNK if length_column == "num_frames" else length
                found.append(ClipRow(str(file), group, row, num_latents))
    return clips
