"""From a plan to batches: windows are read, cut and stacked, a few steps ahead of the training.

Where windows come from is a `WindowSource`: Parquet files read in this process, or a Ray Dataset of the same
pools (`jobs/train.py`). Both give the same windows in the same order.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow.parquet as pq

from gamegen.training.plan import BucketPlan, ClipRow, Lane, Plan, Sample

Row = dict[str, Any]
Batch = Any
WindowSource = Callable[[BucketPlan, list[int], int], Iterator[tuple[int, Any]]]
"""(bucket, lanes, position) to an endless row of (lane, window), each lane's in its order from `position` on."""


class WindowKind(ABC):
    """How a stage's windows are made: of latents, or of pixels."""

    length_column: str

    @abstractmethod
    def prepare(self, row: Row) -> Any:
        """A clip, from its row of a shard; done once a pool."""

    @abstractmethod
    def cut(self, clip: Any, sample: Sample, num_latents: int) -> Any:
        """One window of a clip: a pure function of its arguments."""

    @abstractmethod
    def collate(self, windows: list[Any]) -> Batch:
        """Windows of one size as a batch."""


def read_pool(pool: list[Sample], kind: WindowKind, num_latents: int) -> Iterator[Any]:
    """The windows of a pool, in order; each of its row groups is read once."""
    wanted: dict[tuple[str, int], set[ClipRow]] = {}
    for sample in pool:
        wanted.setdefault((sample.clip.file, sample.clip.group), set()).add(sample.clip)
    clips = {}
    for (file, group), rows in wanted.items():
        table = pq.ParquetFile(file).read_row_group(group)
        for clip in rows:
            clips[clip] = kind.prepare(table.slice(clip.row, 1).to_pylist()[0])
    for sample in pool:
        yield kind.cut(clips[sample.clip], sample, num_latents)


def interleaved_pools(lanes: dict[int, Lane], position: int) -> Iterator[tuple[int, list[Sample]]]:
    """(lane, pool) for ever, lane by lane in turns."""
    pools = {index: lane.pools_from(position) for index, lane in lanes.items()}
    while True:
        for index, lane_pools in pools.items():
            yield index, next(lane_pools)


def local_windows(kind: WindowKind) -> WindowSource:
    """Windows read in this process."""

    def windows(plan: BucketPlan, lanes: list[int], position: int) -> Iterator[tuple[int, Any]]:
        for lane, pool in interleaved_pools({i: plan.lanes[i] for i in lanes}, position):
            for window in read_pool(pool, kind, plan.bucket.num_latents):
                yield lane, window

    return windows


@dataclass(frozen=True)
class StepBatches:
    """This worker's share of one step: its bucket and (index, batch) of each micro-batch."""

    step: int
    bucket: str
    micro_batches: list[tuple[int, Batch]]


class BatchFeed(Protocol):
    """What a training loop needs of its data: batches from any step on, and the place in the data after each."""

    def start(self) -> dict[str, int]:
        """The positions of a new run."""

    def advance(self, positions: dict[str, int], bucket: str) -> dict[str, int]:
        """The positions after a step of `bucket`."""

    def batches(self, step: int, positions: dict[str, int]) -> Iterator[StepBatches]:
        """The batches of step after step, from `step` on, for ever."""


class Feed:
    """The batches of every step for one of `num_workers` workers."""

    def __init__(
        self,
        plan: Plan,
        kind: WindowKind,
        source: WindowSource | None = None,
        worker: int = 0,
        num_workers: int = 1,
    ) -> None:
        num_lanes = plan.config.micro_batches
        if num_lanes % num_workers:
            raise ValueError(
                f"{num_workers} workers cannot share {num_lanes} micro-batches a step equally: set micro_batches in "
                f"the stage's file to a multiple of {num_workers}, or train with another number of workers"
            )
        self.plan, self.kind = plan, kind
        self.source = source or local_windows(kind)
        self.lanes = list(range(worker, num_lanes, num_workers))

    def start(self) -> dict[str, int]:
        """The positions of a new run: samples taken from each lane, by bucket."""
        return dict.fromkeys(self.plan.buckets, 0)

    def advance(self, positions: dict[str, int], bucket: str) -> dict[str, int]:
        """The positions after a step of `bucket`."""
        return positions | {bucket: positions[bucket] + self.plan.buckets[bucket].micro_batch_size}

    def batches(self, step: int, positions: dict[str, int]) -> Iterator[StepBatches]:
        """The batches of step after step, from `step` on, for ever."""
        streams = {
            name: _Lanes(self.source(plan, self.lanes, positions[name]), self.lanes)
            for name, plan in self.plan.buckets.items()
        }
        while True:
            name = self.plan.bucket_of(step)
            size = self.plan.buckets[name].micro_batch_size
            yield StepBatches(
                step, name, [(i, self.kind.collate(streams[name].take(i, size))) for i in self.lanes]
            )
            step += 1

    def example(self, num_micro_batches: int = 1) -> Batch:
        """The first windows of the first bucket as one batch: the same for every worker and at any time."""
        plan = next(iter(self.plan.buckets.values()))
        pool = next(plan.lanes[0].pools_from(0))[: num_micro_batches * plan.micro_batch_size]
        return self.kind.collate(list(read_pool(pool, self.kind, plan.bucket.num_latents)))


class _Lanes:
    """Takes windows of one lane at a time from a stream that mixes several."""

    def __init__(self, windows: Iterator[tuple[int, Any]], lanes: list[int]) -> None:
        self._windows = windows
        self._waiting: dict[int, deque[Any]] = {lane: deque() for lane in lanes}

    def take(self, lane: int, count: int) -> list[Any]:
        """The next `count` windows of a lane."""
        while len(self._waiting[lane]) < count:
            other, window = next(self._windows)
            self._waiting[other].append(window)
        return [self._waiting[lane].popleft() for _ in range(count)]


def ahead(batches: Iterator[Any], depth: int = 2) -> Iterator[Any]:
    """The same items, made in a thread while earlier ones are used; an error there is raised here."""
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[Any, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in batches:
                if not put((item, None)):
                    return
        except BaseException as error:
            put((None, error))

    threading.Thread(target=work, name="feed", daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
