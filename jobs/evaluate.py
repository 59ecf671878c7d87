"""Evaluates a checkpoint on Ray: a few worlds or clips a task, wherever there is room.

    python -m jobs.evaluate nano --data data/curated

The same tasks, files and report as without Ray, so that either goes on with what the other began.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ray
import typer

from gamegen.device import keep_freed_memory
from gamegen.evaluation.bench import Options
from gamegen.evaluation.command import command
from gamegen.evaluation.rollouts import Advance
from gamegen.evaluation.suite import Task, run_task
from gamegen.models.variants import Variant
from jobs.cluster import connect


@ray.remote(num_cpus=1)
def _run(options: Options, task: Task, folder: Path) -> None:
    keep_freed_memory()
    run_task(options, task, folder)


def run_on_ray(options: Options, tasks: list[Task], folder: Path, advance: Advance) -> None:
    """Runs tasks on a running Ray, those with most to draw first."""
    remote = _run.options(num_gpus=1) if ray.cluster_resources().get("GPU") else _run
    options = _with_whole_paths(options)
    longest_first = sorted(tasks, key=lambda task: -task.chunks)
    running = {remote.remote(options, task, folder): task for task in longest_first}
    while running:
        done, _ = ray.wait(list(running))
        for reference in done:
            ray.get(reference)
            advance(running.pop(reference).chunks)


def _with_whole_paths(options: Options) -> Options:
    """Workers may stand in another folder."""
    return replace(
        options,
        checkpoint=Variant.parse(options.checkpoint).resolved,
        data=options.data and str(Path(options.data).resolve()),
        clips=options.clips and str(Path(options.clips).resolve()),
        judges=replace(
            options.judges,
            **{name: path and str(Path(path).resolve()) for name, path in vars(options.judges).items()},
        ),
    )


def _connected(options: Options, tasks: list[Task], folder: Path, advance: Advance) -> None:
    if tasks:
        connect()
        run_on_ray(options, tasks, folder, advance)


if __name__ == "__main__":
    typer.run(command(_connected))
