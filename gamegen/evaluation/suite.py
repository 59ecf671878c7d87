"""The whole evaluation: what is to be done, doing it, taking it up again, and putting the report together.

Work is cut into tasks, each one part for a few seeds or clips. A finished task is a file under
OUTPUT/parts-FINGERPRINT/, so a stopped evaluation goes on where it was, one with more seeds or longer play adds to
what there is, and anything else (weights, other lengths, clips) has a folder of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gamegen.evaluation.bench import Options, open_bench
from gamegen.evaluation.figures import FigureMaker
from gamegen.evaluation.looks import Arrays
from gamegen.evaluation.parts import PARTS
from gamegen.evaluation.real import RealClip, fingerprint
from gamegen.evaluation.report import EvaluationReport
from gamegen.evaluation.rollouts import Advance

PICTURES = "pictures/"
_SECONDS = "seconds"


@dataclass(frozen=True)
class Task:
    """Some units of one part; `chunks` says how much there is to draw, `length` for how long if that is chosen."""

    part: str
    first: int
    count: int
    chunks: int
    length: str = ""

    def file(self, folder: Path) -> Path:
        """Where its arrays are kept."""
        name = f"{self.part} {self.length}".strip().replace(" ", "-")
        return folder / f"{name}-{self.first:06d}-{self.count}.npz"


Runner = Callable[[Options, list[Task], Path, Advance], None]
"""Runs tasks, each leaving its file in the folder, and says how many chunks it has drawn."""


@dataclass(frozen=True)
class Plan:
    """The tasks of an evaluation, the folder of their files, and the real clips."""

    options: Options
    tasks: list[Task]
    folder: Path
    clips: list[RealClip]

    def missing(self) -> list[Task]:
        """Tasks that have no file yet."""
        return [task for task in self.tasks if not task.file(self.folder).exists()]


def plan(options: Options, output: Path) -> Plan:
    """What an evaluation into `output` consists of."""
    clips = options.real_clips()
    tasks = list(_tasks(options, len(clips)))
    return Plan(options, tasks, output / f"parts-{options.fingerprint(clips)}", clips)


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
    for name, part in PARTS.items():
        total, size = counts[part.units]
        for first in range(0, total, size):
            count = min(size, total - first)
            length = f"{config.play_s}s" if part.units == "played seeds" else ""
            yield Task(name, first, count, count * part.chunks(config), length)


def run_here(options: Options, tasks: list[Task], folder: Path, advance: Advance) -> None:
    """Runs tasks one after the other in this process."""
    for task in tasks:
        run_task(options, task, folder, advance)


def run_task(options: Options, task: Task, folder: Path, advance: Advance = lambda chunks: None) -> None:
    """Runs one task and leaves its file, whole or not at all."""
    bench = open_bench(options)
    started = time.monotonic()
    drawn = 0

    def count(chunks: int) -> None:
        nonlocal drawn
        # Real clips need about as much work as was planned, never more than that is reported.
        advance(min(chunks, task.chunks - drawn))
        drawn = min(drawn + chunks, task.chunks)

    arrays = PARTS[task.part].run(bench, range(task.first, task.first + task.count), count)
    advance(task.chunks - drawn)
    file = task.file(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **arrays, **{_SECONDS: np.array(time.monotonic() - started)})  # type: ignore[arg-type]
    partial.replace(file)


def read_results(plan: Plan) -> tuple[dict[str, Arrays], dict[str, np.ndarray], float]:
    """Every part's arrays over all its units, the first units' pictures by name, and the seconds it took."""
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
            results.setdefault(task.part, []).append(arrays)
    joined = {
        part: {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        for part, pieces in results.items()
    }
    return joined, pictures, seconds


def make_report(plan: Plan) -> tuple[EvaluationReport, dict[str, np.ndarray]]:
    """The report of a finished plan, and pictures by name: strips, uint8 `(strips, frames, H, W, 3)`."""
    results, pictures, seconds = read_results(plan)
    maker = FigureMaker(results, plan.options.config, fingerprint(plan.clips) if plan.clips else "")
    maker.run()
    report = EvaluationReport(
        plan.options.checkpoint,
        plan.options.weights_sha256(),
        maker.figures,
        maker.curves,
        tuple(_skipped(plan)),
        round(seconds, 1),
    )
    return report, pictures


def _skipped(plan: Plan) -> Iterator[str]:
    if not plan.clips:
        yield (
            "next frames, likeness to real clips, levels of real clips and drift: no real clips were given "
            "(--data or --clips)"
        )
    if not plan.options.config.play_s:
        yield "long play: left out by --no-long-play"
    judges = plan.options.judges
    for name, path in (
        ("FID", judges.fid),
        ("FVD", judges.fvd),
        ("LPIPS", judges.lpips),
        ("CLIP", judges.clip),
    ):
        if not path:
            yield f"{name}: no weights were given (--{name.lower()})"
