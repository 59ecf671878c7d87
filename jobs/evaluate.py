"""Evaluates a checkpoint on Ray: a few worlds or clips a task.

    python -m jobs.evaluate nano --data data/curated

Tasks, files and report equal those without Ray, so that either resumes what the other began.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ray

from gamegen.device import keep_freed_memory
from gamegen.engine.variants import Variant
from gamegen.evaluation.context import Options
from gamegen.evaluation.evaluate_command import command
from gamegen.evaluation.rollouts import Advance
from gamegen.evaluation.suite import Task, run_task
from gamegen.process.command import run_command
from jobs.cluster import connect


@ray.remote(num_cpus=1)
def _run(options: Options, task: Task, folder: Path) -> None:
    keep_freed_memory()
    run_task(options, task, folder)


def run_on_ray(options: Options, tasks: list[Task], folder: Path, advance: Advance) -> None:
    """Runs tasks on a running Ray, the longest first."""
    remote = _run.options(num_gpus=1) if ray.cluster_resources().get("GPU") else _run
    options = _with_absolute_paths(options)
    longest_first = sorted(tasks, key=lambda task: -task.chunks)
    running = {remote.remote(options, task, folder): task for task in longest_first}
    while running:
        done, _ = ray.wait(list(running))
        for reference in done:
            ray.get(reference)
            advance(running.pop(reference).chunks)


def _with_absolute_paths(options: Options) -> Options:
    """Options with absolute paths: workers may run in another folder."""
    return replace(
        options,
        checkpoint=Variant.parse(options.checkpoint).resolved,
        data=options.data and str(Path(options.data).resolve()),
        clips=options.clips and str(Path(options.clips).resolve()),
        reference_models=replace(
            options.reference_models,
            **{
                name: path and str(Path(path).resolve())
                for name, path in vars(options.reference_models).items()
            },
        ),
    )


def _connected(options: Options, tasks: list[Task], folder: Path, advance: Advance) -> None:
    if tasks:
        connect()
        run_on_ray(options, tasks, folder, advance)


if __name__ == "__main__":
    run_command(command(_connected))
