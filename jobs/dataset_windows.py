"""Windows of training clips read by Ray Data, in the order that the plan asks for.

The reading processes import this file and the dataset's, and nothing of the training itself.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.train

from gamegen.training.feed import WindowDataset, WindowSource, interleaved_pools, read_pool
from gamegen.training.window_plan import BucketPlan, Sample

READER_CPUS = 0.25
CPUS_A_READER = 2
WINDOWS_A_DATASET = 256


def dataset_windows(dataset: WindowDataset) -> WindowSource:
    """A window source that reads with Ray Data: each bucket is a row of datasets of pools in this worker's order.

    A dataset is read to its end while the one before it is used. One that waits for its reader would not do: Ray
    Data's executor polls without a pause then, and takes the interpreter from the training.
    """

    def windows(plan: BucketPlan, streams: list[int], position: int) -> Iterator[tuple[int, Any]]:
        pools = interleaved_pools({i: plan.streams[i] for i in streams}, position)
        reader = ThreadPoolExecutor(1, "dataset")
        reading = _Reading(dataset, plan.bucket.num_latents, readers)
        try:
            following = reader.submit(reading.run, _some(pools))
            while True:
                blocks = following.result()
                following = reader.submit(reading.run, _some(pools))
                while blocks:
                    for window in ray.get(blocks.pop(0))["window"].to_pylist():
                        yield pickle.loads(window)
        finally:
            reader.shutdown(wait=False, cancel_futures=True)

    readers = _readers()
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    return windows


def _some(pools: Iterator[tuple[int, list[Sample]]]) -> list[tuple[int, list[Sample]]]:
    """The next pools, of at least `WINDOWS_A_DATASET` windows together."""
    taken = [next(pools)]
    while sum(len(pool) for _, pool in taken) < WINDOWS_A_DATASET:
        taken.append(next(pools))
    return taken


def _readers() -> int:
    """Number of reading processes of each worker: half its share of the cluster's CPUs, at least one.

    On a small machine more would be slower: each takes seven seconds of a core to start, and reading is cheap.
    """
    cpus = ray.cluster_resources().get("CPU", 1)
    return max(1, int(cpus / ray.train.get_context().get_world_size()) // CPUS_A_READER)


@dataclass(frozen=True)
class _Reading:
    """Reads pools into blocks of windows, with at most `readers` Ray tasks at once."""

    dataset: WindowDataset
    num_latents: int
    readers: int

    def run(self, pools: list[tuple[int, list[Sample]]]) -> list[ray.ObjectRef[pa.Table]]:
        """Starts reading pools; the blocks come in the order of the pools."""
        rows = [{"pool": pickle.dumps(pool)} for pool in pools]
        read = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _ReadPools(self.dataset, self.num_latents),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=READER_CPUS,
            compute=ray.data.TaskPoolStrategy(size=self.readers),
        )
        return read.to_arrow_refs()


class _ReadPools:
    """Reads pools of windows, a block of at most a few dozen windows at a time."""

    WINDOWS_A_BLOCK = 32

    def __init__(self, dataset: WindowDataset, num_latents: int) -> None:
        self.dataset = dataset
        self.num_latents = num_latents

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row in batch.to_pylist():
            stream, pool = pickle.loads(row["pool"])
            waiting: list[bytes] = []
            for window in read_pool(pool, self.dataset, self.num_latents):
                waiting.append(pickle.dumps((stream, window)))
                if len(waiting) == self.WINDOWS_A_BLOCK:
                    yield _table(waiting)
                    waiting = []
            if waiting:
                yield _table(waiting)


def _table(windows: list[bytes]) -> pa.Table:
    return pa.table({"window": pa.array(windows, pa.large_binary())})
