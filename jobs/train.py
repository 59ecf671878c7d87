"""Trains one stage on Ray Train: Ray Data streams the shards in, any number of workers share the steps.

python -m jobs.train foundation --data encoded/ --init runs/vae --output runs/foundation --workers 2
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import ray
import ray.data
import ray.train
import typer
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from gamegen.training.loop import Run
from gamegen.training.stages import load_stage, run_stage, stage_file
from jobs.cluster import connect

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(
    stage: str,
    data: Path,
    output: Path,
    init: str | None = None,
    minutes: float | None = None,
    workers: int = 1,
    gpu: bool = False,
) -> Path:
    """Trains one stage on the running Ray; returns its checkpoint folder. Raises ValueError or FileNotFoundError."""
    file = stage_file(stage)
    load_stage(file)
    shards = sorted(str(path) for path in (data / "split=train").rglob("*.parquet"))
    if not shards:
        raise FileNotFoundError(f"no training shards under {data}: run the curate and encode jobs first")
    output.mkdir(parents=True, exist_ok=True)
    dataset = ray.data.read_parquet(shards)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "stage": str(file),
            "clips_per_worker": -(-dataset.count() // workers),
            "data": str(data.resolve()),
            "output": str(output.resolve()),
            "init": str(Path(init).resolve()) if init and Path(init).exists() else init,
            "minutes": minutes,
        },
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker=worker_resources(workers, gpu)
        ),
        run_config=RunConfig(
            name=output.name,
            storage_path=str(output.resolve().parent / "ray"),
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
        datasets={"train": dataset},
    )
    trainer.fit()
    return output


def worker_resources(workers: int, gpu: bool) -> dict[str, float]:
    """One CPU a worker, or less on a small machine: Ray Data hangs when workers hold every CPU."""
    spare = max(ray.cluster_resources().get("CPU", 1) - 1, 0.5)
    return {"CPU": min(1.0, spare / workers)} | ({"GPU": 1.0} if gpu else {})


def _train_worker(config: dict[str, Any]) -> None:
    context = ray.train.get_context()
    stage = load_stage(Path(config["stage"]))
    fits = config["clips_per_worker"] <= stage.buffer_clips
    run_config = Run(
        Path(config["output"]),
        config["minutes"],
        config["data"],
        config["init"] or "",
        report=lambda metrics, _: ray.train.report(metrics),
        show_progress=context.get_world_rank() == 0,
    )
    run_stage(
        stage,
        Path(config["data"]),
        run_config,
        config["init"],
        rows=_shard_rows(1 if fits else None),
        rank=context.get_world_rank(),
    )


def _shard_rows(epochs: int | None) -> Iterator[dict[str, Any]]:
    """This worker's share of the training rows; once is enough where the buffer holds them all."""
    shard = ray.train.get_dataset_shard("train")
    return itertools.chain.from_iterable(
        shard.iter_rows() for _ in (itertools.count() if epochs is None else range(epochs))
    )


@app.command()
def main(
    stage: Annotated[
        str, typer.Argument(help="vae, foundation, instructnet, turbo, decoder, idm, or a YAML file")
    ],
    data: Annotated[
        Path, typer.Option(help="curated shards (vae, decoder, idm) or encoded shards (other stages)")
    ],
    output: Annotated[Path, typer.Option(help="checkpoint folder; an interrupted run there is resumed")],
    init: Annotated[str | None, typer.Option(help="checkpoint the stage builds on")] = None,
    minutes: Annotated[float | None, typer.Option(help="stop after this long")] = None,
    workers: Annotated[int, typer.Option(help="training processes")] = 1,
    gpu: Annotated[bool, typer.Option(help="give each worker a GPU")] = False,
) -> None:
    """Trains one stage on Ray.

    Example: gamegen train foundation --data encoded --init runs/vae --output runs/foundation --workers 2
    """
    connect()
    try:
        run(stage, data, output, init, minutes, workers, gpu)
    except (ValueError, FileNotFoundError) as error:
        print(f"gamegen: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    app()
