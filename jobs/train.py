"""Trains one stage on Ray Train; Ray Data reads ahead of the steps, which any number of workers share.

python -m jobs.train foundation --data encoded/ --init runs/vae --output runs/foundation --workers 2
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import ray
import ray.train
import torch
import typer
from ray._private.worker import get_dashboard_url
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from gamegen.process.command import run_command
from gamegen.storage.encryption import open_store
from gamegen.training.loop import Run
from gamegen.training.run_stage import run_stage
from gamegen.training.stage_config import StageConfig
from gamegen.training.stages.table import STAGES, load_stage, shards_help, stage_file
from jobs.cluster import connect
from jobs.dataset_windows import dataset_windows
from jobs.training_gauges import TrainingGauges

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

MAX_RESTARTS = 3


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
    """A trainer without helpers that have nothing to do; each would be a process that takes three seconds of a core.

    One hands out the trainer's datasets, of which there are none: `dataset_windows` makes them in the workers. Another
    asks the dashboard every second whether a run is alive, and without a dashboard logs a complaint every second.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle: tuple[type, ...] = (DatasetsCallback,)
        if not get_dashboard_url():
            idle += (PlacementGroupCleanerCallback,)
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if not isinstance(callback, idle)]


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
        archive=open_store(config["archive"]) if config["archive"] else None,
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
