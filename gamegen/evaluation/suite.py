"""An evaluation from plan to report: its tasks, running or resuming them, and the report of their results.

A task is one measurement of a few seeds or clips. A finished one is a file under OUTPUT/parts-FINGERPRINT/, so a
stopped evaluation goes on where it was, one with more seeds or longer play adds to the results, and any other change
(weights, other lengths, clips) has a folder of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gamegen.evaluation.context import Options, load_context
from gamegen.evaluation.evaluation_report import EvaluationReport
from gamegen.evaluation.measurements import MEASUREMENTS
from gamegen.evaluation.real_clips import RealClip, fingerprint
from gamegen.evaluation.report_builder import ReportBuilder
from gamegen.evaluation.rollouts import Advance
from gamegen.evaluation.samples import Arrays
from gamegen.files import write_atomically

PICTURES = "pictures/"
_SECONDS = "seconds"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Some units of one measurement; `chunks` is the number to generate, `length` names the length of long play."""

    measurement: str
    first: int
    count: int
    chunks: int
    length: str = ""

    def file(self, folder: Path) -> Path:
        """The file of its arrays."""
        name = f"{self.measurement} {self.length}".strip().replace(" ", "-")
        return folder / f"{name}-{self.first:06d}-{self.count}.npz"


Runner = Callable[[Options, list[Task], Path, Advance], None]
"""Runs tasks, each of which writes its file into the folder, and reports the chunks generated."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """The tasks of an evaluation, the folder of their files, and the real clips."""

    options: Options
    tasks: list[Task]
    folder: Path
    clips: list[RealClip]

    def missing(self) -> list[Task]:
        """Tasks that have no file yet."""
        return [task for task in self.tasks if not task.file(self.folder).exists()]


def plan_evaluation(options: Options, output: Path) -> EvaluationPlan:
    """Plans the tasks of an evaluation into `output`."""
    clips = options.real_clips()
    tasks = list(_tasks(options, len(clips)))
    return EvaluationPlan(
        options=options,
        tasks=tasks,
        folder=output / f"parts-{options.fingerprint(clips)}",
        clips=clips,
    )


def _tasks(options: Options, num_clips: int) -> Iterator[Task]:
    config = options.config
    counts = {
        "seeds": (config.num_seeds, config.seeds_per_task),
        "played seeds": (
            min(config.play_seeds, config.num_seeds) if config.play_s else 0,
            config.seeds_per_task,
        ),
        "clips": (num_clips, config.clips_per_task),
        "continued clips": (min(config.continuations, num_clips), max(1, config.continuations)),
    }
    for name, measurement in MEASUREMENTS.items():
        total, size = counts[measurement.units]
        for first in range(0, total, size):
            count = min(size, total - first)
            length = f"{config.play_s}s" if measurement.units == "played seeds" else ""
            yield Task(
                measurement=name,
                first=first,
                count=count,
                chunks=count * measurement.chunks(config),
                length=length,
            )


def run_here(options: Options, tasks: list[Task], folder: Path, advance: Advance) -> None:
    """Runs tasks one after the other in this process."""
    for task in tasks:
        run_task(options, task, folder, advance)


def run_task(options: Options, task: Task, folder: Path, advance: Advance = lambda chunks: None) -> None:
    """Runs one task and writes its file atomically."""
    context = load_context(options)
    started = time.monotonic()
    drawn = 0

    def count(chunks: int) -> None:
        nonlocal drawn
        # Real clips need about as much work as was planned, never more than that is reported.
        advance(min(chunks, task.chunks - drawn))
        drawn = min(drawn + chunks, task.chunks)

    arrays = MEASUREMENTS[task.measurement].run(context, range(task.first, task.first + task.count), count)
    advance(task.chunks - drawn)
    file = task.file(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays, **{_SECONDS: np.array(time.monotonic() - started)})  # type: ignore[arg-type]


def read_results(plan: EvaluationPlan) -> tuple[dict[str, Arrays], dict[str, np.ndarray], float]:
    """Arrays of every measurement over all its units, the first units' pictures by name, and the seconds it took."""
    results: dict[str, list[Arrays]] = {}
    pictures: dict[str, np.ndarray] = {}
    seconds = 0.0
    for task in plan.tasks:
        with np.load(task.file(plan.folder)) as stored:
            arrays = dict(stored)
        seconds += float(arrays.pop(_SECONDS))
        shown = {name: arrays.pop(name) for name in list(arrays) if name.startswith(PICTURES)}
        if task.first == 0:
            pictures |= {name.removeprefix(PICTURES): value for name, value in shown.items()}
        if arrays:
            results.setdefault(task.measurement, []).append(arrays)
    joined = {
        measurement: {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        for measurement, pieces in results.items()
    }
    return joined, pictures, seconds


def make_report(plan: EvaluationPlan) -> tuple[EvaluationReport, dict[str, np.ndarray]]:
    """The report of a finished plan, and pictures by name: strips, uint8 `(strips, frames, H, W, 3)`."""
    results, pictures, seconds = read_results(plan)
    builder = ReportBuilder(results, plan.options.config, fingerprint(plan.clips) if plan.clips else "")
    builder.run()
    report = EvaluationReport(
        checkpoint=plan.options.checkpoint,
        weights_sha256=plan.options.weights_sha256(),
        figures=builder.figures,
        curves=builder.curves,
        skipped=(*_skipped(plan), *builder.skipped),
        wall_s=round(seconds, 1),
    )
    return report, pictures


def _skipped(plan: EvaluationPlan) -> Iterator[str]:
    if not plan.clips:
        yield (
            "next frames, likeness to real clips, levels and revisits of real clips, and drift: none were given "
            "(--data or --clips)"
        )
    if not plan.options.config.play_s:
        yield "long play: left out by --no-long-play"
    paths = plan.options.reference_models
    for name, path in (
        ("FID", paths.fid),
        ("FVD", paths.fvd),
        ("LPIPS", paths.lpips),
        ("CLIP", paths.clip),
    ):
        if not path:
            yield f"{name}: no weights were given (--{name.lower()})"
