"""Feed of batches for the training loop: windows are read, cut and stacked a few steps ahead.

Where windows come from is a `WindowSource`: shards read in this process, or a Ray Dataset of the same
pools (`jobs/train.py`). Both give the same windows in the same order.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from gamegen.curation.row_groups import read_rows_of
from gamegen.training.window_plan import BucketPlan, ClipRow, Sample, WindowPlan, WindowStream

Row = dict[str, Any]
Batch = Any
WindowSource = Callable[[BucketPlan, list[int], int], Iterator[tuple[int, Any]]]
"""(bucket, streams, position) to an endless iterator of (stream, window), in each stream's order from `position` on."""


class WindowDataset(ABC):
    """Windows of clips as a stage trains on them: of latents, of pixels or of motion."""

    length_column: str

    @abstractmethod
    def prepare(self, row: Row) -> Any:
        """Decodes a clip from its row of a shard; called once for each pool that holds it."""

    @abstractmethod
    def cut(self, clip: Any, sample: Sample, num_latents: int) -> Any:
        """Cuts one window out of a clip: a pure function of its arguments."""

    @abstractmethod
    def collate(self, windows: list[Any]) -> Batch:
        """Stacks windows of one size into a batch."""


def read_pool(pool: list[Sample], dataset: WindowDataset, num_latents: int) -> Iterator[Any]:
    """Windows of a pool, in order; each of its row groups is read once."""
    wanted: dict[tuple[str, int], set[ClipRow]] = {}
    for sample in pool:
        wanted.setdefault((sample.clip.file, sample.clip.group), set()).add(sample.clip)
    clips = {}
    for (file, group), rows in wanted.items():
        for clip, row in zip(rows, read_rows_of(file, group, [clip.row for clip in rows]), strict=True):
            clips[clip] = dataset.prepare(row)
    for sample in pool:
        yield dataset.cut(clips[sample.clip], sample, num_latents)


def interleaved_pools(streams: dict[int, WindowStream], position: int) -> Iterator[tuple[int, list[Sample]]]:
    """Endless (stream, pool) pairs, one pool of each stream in turn."""
    pools = {index: stream.pools_from(position) for index, stream in streams.items()}
    while True:
        for index, stream_pools in pools.items():
            yield index, next(stream_pools)


def local_windows(dataset: WindowDataset) -> WindowSource:
    """A window source that reads in this process."""

    def windows(plan: BucketPlan, streams: list[int], position: int) -> Iterator[tuple[int, Any]]:
        for stream, pool in interleaved_pools({i: plan.streams[i] for i in streams}, position):
            for window in read_pool(pool, dataset, plan.bucket.num_latents):
                yield stream, window

    return windows


@dataclass(frozen=True)
class StepBatches:
    """This worker's share of one step: its bucket and the (index, batch) pairs of its micro-batches."""

    step: int
    bucket: str
    micro_batches: list[tuple[int, Batch]]


class BatchFeed(Protocol):
    """Data interface of the training loop: batches from any step on, and the positions in the data after each step."""

    def start(self) -> dict[str, int]:
        """The positions of a new run."""

    def advance(self, positions: dict[str, int], bucket: str) -> dict[str, int]:
        """The positions after a step of `bucket`."""

    def batches(self, step: int, positions: dict[str, int]) -> Iterator[StepBatches]:
        """Endless batches of the steps from `step` on, read from `positions` on."""


class Feed:
    """The batches of every step for one of `num_workers` workers."""

    def __init__(
        self,
        plan: WindowPlan,
        dataset: WindowDataset,
        source: WindowSource | None = None,
        worker: int = 0,
        num_workers: int = 1,
    ) -> None:
        num_streams = plan.config.micro_batches
        if num_streams % num_workers:
            raise ValueError(
                f"{num_workers} workers cannot share {num_streams} micro-batches a step equally: set micro_batches in "
                f"the stage's file to a multiple of {num_workers}, or train with another number of workers"
            )
        self.plan = plan
        self.dataset = dataset
        self.source = source or local_windows(dataset)
        self.streams = list(range(worker, num_streams, num_workers))

    def start(self) -> dict[str, int]:
        """The positions of a new run: samples taken from each stream, by bucket."""
        return dict.fromkeys(self.plan.buckets, 0)

    def advance(self, positions: dict[str, int], bucket: str) -> dict[str, int]:
        """The positions after a step of `bucket`."""
        return positions | {bucket: positions[bucket] + self.plan.buckets[bucket].micro_batch_size}

    def batches(self, step: int, positions: dict[str, int]) -> Iterator[StepBatches]:
        """Endless batches of the steps from `step` on, read from `positions` on."""
        buffers = {
            name: _StreamBuffer(self.source(plan, self.streams, positions[name]), self.streams)
            for name, plan in self.plan.buckets.items()
        }
        while True:
            name = self.plan.bucket_of(step)
            size = self.plan.buckets[name].micro_batch_size
            batches = [(i, self.dataset.collate(buffers[name].take(i, size))) for i in self.streams]
            yield StepBatches(step, name, batches)
            step += 1

    def example(self, num_micro_batches: int = 1) -> Batch:
        """The first windows of the first bucket as one batch, equal on every worker and at any time."""
        plan = next(iter(self.plan.buckets.values()))
        pool = next(plan.streams[0].pools_from(0))[: num_micro_batches * plan.micro_batch_size]
        return self.dataset.collate(list(read_pool(pool, self.dataset, plan.bucket.num_latents)))


class _StreamBuffer:
    """Buffer that takes windows of one stream at a time from an iterator that mixes several."""

    def __init__(self, windows: Iterator[tuple[int, Any]], streams: list[int]) -> None:
        self._windows = windows
        self._waiting: dict[int, deque[Any]] = {stream: deque() for stream in streams}

    def take(self, stream: int, count: int) -> list[Any]:
        """The next `count` windows of a stream."""
        while len(self._waiting[stream]) < count:
            other, window = next(self._windows)
            self._waiting[other].append(window)
        return [self._waiting[stream].popleft() for _ in range(count)]


def ahead(batches: Iterator[Any], depth: int = 2) -> Generator[Any, None, None]:
    """Prefetches items in a thread, at most `depth` of them; an error there is raised here.

    Closing waits until the thread has ended: one that still computes when the interpreter ends aborts the process.
    """
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def work() -> None:
        try:
            for item in batches:
                ready.put((item, None))
                if stopped.is_set():
                    return
        except BaseException as error:
            ready.put((None, error))

    thread = threading.Thread(target=work, name="feed", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        # Room for what the thread waits to put, and for what it may put after that.
        while not ready.empty():
            ready.get_nowait()
        thread.join()
