"""Trains one stage on Ray Train; Ray Data reads ahead of the steps, which any number of workers share.

python -m jobs.train foundation --data encoded/ --init runs/vae --output runs/foundation --workers 2
"""

from __future__ import annotations

import os
import pickle
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import ray
import ray.data
import ray.train
import torch
import typer
from ray._private.worker import get_dashboard_url
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from gamegen.process.command import run_command
from gamegen.storage.encryption import open_sealed_store
from gamegen.training.feed import WindowDataset, WindowSource, interleaved_pools, read_pool
from gamegen.training.loop import Run
from gamegen.training.run_stage import run_stage
from gamegen.training.stage_config import StageConfig
from gamegen.training.stages.table import STAGES, load_stage, shards_help, stage_file
from gamegen.training.window_plan import BucketPlan, Sample
from jobs.cluster import connect
from jobs.training_gauges import TrainingGauges

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

MAX_RESTARTS = 3
READER_CPUS = 0.25
CPUS_A_READER = 2
WINDOWS_A_DATASET = 256


def run(
    stage: str,
    data: Path,
    output: Path,
    init: str | None = None,
    minutes: float | None = None,
    workers: int = 1,
    gpu: bool = False,
    min_workers: int | None = None,
    archive: str | None = None,
    threads: int | None = None,
) -> Path:
    """Trains one stage on Ray, which is started if need be; returns its checkpoint folder.

    Raises ValueError or FileNotFoundError, before Ray is started, for what cannot be trained.

    A worker that dies is replaced, up to three times, and all go on from the last state saved. With
    `min_workers`, training goes on with fewer than `workers` where the cluster has shrunk. `threads` None gives each
    worker an equal share of its machine's cores.
    """
    file = stage_file(stage)
    config = load_stage(file)
    for count in range(min_workers or workers, workers + 1):
        check_sharing(config, count)
    if not any((data / "split=train").rglob("*.parquet")):
        raise FileNotFoundError(f"no training shards under {data}: run the curate and encode jobs first")
    output.mkdir(parents=True, exist_ok=True)
    connect()
    trainer = _Trainer(
        _train_worker,
        train_loop_config={
            "stage": str(file.resolve()),
            "data": str(data.resolve()),
            "output": str(output.resolve()),
            "init": str(Path(init).resolve()) if init and Path(init).exists() else init,
            "minutes": minutes,
            "archive": archive,
            "threads": threads,
            # A worker's own command line says nothing about who began the run.
            "command": shlex.join(sys.orig_argv),
        },
        scaling_config=ScalingConfig(
            num_workers=(min_workers, workers) if min_workers else workers,  # type: ignore[arg-type]
            use_gpu=gpu,
            resources_per_worker=worker_resources(workers, gpu),
        ),
        run_config=RunConfig(
            name=output.name,
            storage_path=str(output.resolve().parent / "ray"),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    trainer.fit()
    return output


class _Trainer(TorchTrainer):
    """A trainer without the helper that asks the dashboard every second whether a run is alive, where there is none.

    Without a dashboard the helper only logs a complaint every second; each helper is a process that takes three
    seconds of a core to start and a hundredth of one as long as it runs.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        if get_dashboard_url():
            return callbacks
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


def check_sharing(config: StageConfig, workers: int) -> None:
    """Raises ValueError if `workers` processes cannot share a stage's steps, before any of them starts."""
    groups, rest = divmod(workers, config.parallel.sequence)
    if rest:
        raise ValueError(
            f"{workers} workers do not split into groups of {config.parallel.sequence} that share a window: take a "
            "multiple, or set parallel.sequence in the stage's file"
        )
    if config.micro_batches % groups:
        raise ValueError(
            f"{workers} workers cannot share {config.micro_batches} micro-batches a step equally: set micro_batches in "
            "the stage's file to a multiple, or take another number of workers"
        )


def worker_resources(workers: int, gpu: bool) -> dict[str, float]:
    """Resources of one worker: a CPU, or less on a small machine, since Ray Data hangs when workers hold every CPU."""
    spare = max(ray.cluster_resources().get("CPU", 1) - 1, 0.5)
    return {"CPU": min(1.0, spare / workers)} | ({"GPU": 1.0} if gpu else {})


def _train_worker(config: dict[str, Any]) -> None:
    context = ray.train.get_context()
    # Ray gives a worker as many threads as it counts CPUs for it, which on a small machine leaves most of them idle.
    share = max(1, (os.cpu_count() or 1) // context.get_local_world_size())
    torch.set_num_threads(config["threads"] or share)
    stage, output = load_stage(Path(config["stage"])), Path(config["output"])
    is_first = context.get_world_rank() == 0
    gauges = TrainingGauges(stage.stage, output.name) if is_first else None

    def on_log(row: dict[str, float]) -> None:
        if gauges:
            gauges(row)
        ray.train.report(row)

    run_config = Run(
        output=output,
        minutes=config["minutes"],
        data=config["data"],
        init=config["init"] or "",
        show_progress=is_first,
        archive=open_sealed_store(config["archive"]) if config["archive"] else None,
        command=config["command"],
        on_log=on_log,
    )
    run_stage(
        stage=stage,
        data=Path(config["data"]),
        run=run_config,
        init=config["init"],
        source=dataset_windows,
    )


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


@app.command()
def main(
    stage: Annotated[str, typer.Argument(help=f"{', '.join(STAGES)}, or a YAML file")],
    data: Annotated[Path, typer.Option(help=shards_help())],
    output: Annotated[
        Path, typer.Option(help="checkpoint folder, shared by all machines; an interrupted run is resumed")
    ],
    init: Annotated[str | None, typer.Option(help="checkpoint the stage builds on")] = None,
    minutes: Annotated[float | None, typer.Option(help="stop after this long")] = None,
    workers: Annotated[int, typer.Option(help="training processes")] = 1,
    gpu: Annotated[bool, typer.Option(help="give each worker a GPU")] = False,
    min_workers: Annotated[
        int | None, typer.Option(help="go on with as few as this when machines are lost")
    ] = None,
    archive: Annotated[
        str | None, typer.Option(help="folder or s3:// URL for older weights; OUTPUT/archive if unset")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of each worker; an equal share of the cores if unset", min=1),
    ] = None,
) -> None:
    """Trains one stage on Ray.

    Example: gamegen train foundation --data encoded --init runs/vae --output runs/foundation --workers 2
    """
    run(
        stage=stage,
        data=data,
        output=output,
        init=init,
        minutes=minutes,
        workers=workers,
        gpu=gpu,
        min_workers=min_workers,
        archive=archive,
        threads=threads,
    )


if __name__ == "__main__":
    run_command(app)
