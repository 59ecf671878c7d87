"""The command `gamegen evaluate`, with its tasks run in this process or on Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from gamegen.evaluation.context import Options, SuiteConfig
from gamegen.evaluation.evaluation_report import REPORT_FILE, EvaluationReport, write_report
from gamegen.evaluation.metrics import METRICS
from gamegen.evaluation.real_clips import SHIPPED_CLIPS
from gamegen.evaluation.reference_models import ReferenceModels
from gamegen.evaluation.report_page import PAGE_FILE, shown, write_page
from gamegen.evaluation.suite import Runner, make_report, plan_evaluation

Weights = Annotated[Path | None, typer.Option(help="TorchScript file of the field's own network")]


def command(run_tasks: Runner) -> Callable[..., None]:
    """The command as a function for typer, its tasks run by `run_tasks`."""

    def evaluate(
        checkpoint: Annotated[
            str, typer.Argument(help="a shipped model or a checkpoint folder, with changes: nano:num_steps=1")
        ],
        seeds: Annotated[int, typer.Option(help="worlds to play")] = SuiteConfig.num_seeds,
        output: Annotated[Path, typer.Option(help="where the report goes; what is there is taken up")] = Path(
            "evaluation"
        ),
        data: Annotated[
            Path | None, typer.Option(help="curated shards: their held-out clips are the truth")
        ] = None,
        clips: Annotated[
            Path | None, typer.Option(help="else a folder of real MP4 clips and their tables")
        ] = None,
        start: Annotated[
            str, typer.Option(help="drawn: worlds begin from words alone; gallery: from recorded moments")
        ] = SuiteConfig.start,
        long_play: Annotated[bool, typer.Option(help="also play for a minute")] = True,
        drift_s: Annotated[int, typer.Option(help="seconds of long play: 10, 60, 600")] = SuiteConfig.play_s,
        drift_seeds: Annotated[int, typer.Option(help="worlds of long play")] = SuiteConfig.play_seeds,
        fid: Weights = None,
        fvd: Weights = None,
        lpips: Weights = None,
        clip: Annotated[Path | None, typer.Option(help="folder of a CLIP model with its tokenizer")] = None,
    ) -> None:
        """Plays many seeds, measures them beside real clips, and writes report.html and report.json.

        Example: gamegen evaluate nano --data data/curated --output evaluation
        """
        if start not in ("drawn", "gallery"):
            raise typer.BadParameter(f"--start {start}: use drawn or gallery")
        config = SuiteConfig(
            num_seeds=seeds,
            play_s=drift_s if long_play else 0,
            play_seeds=drift_seeds,
            start="gallery" if start == "gallery" else "drawn",
        )
        folder = str(clips) if clips else None if data else str(SHIPPED_CLIPS)
        paths = {"fid": fid, "fvd": fvd, "lpips": lpips, "clip": clip}
        options = Options(
            checkpoint=checkpoint,
            data=str(data) if data else None,
            clips=folder,
            config=config,
            reference_models=ReferenceModels(**{name: str(path) for name, path in paths.items() if path}),
        )
        report = run(options, output, run_tasks)
        Console().print(_table(report))
        for reason in report.skipped:
            print(f"left out: {reason}")
        print(f"the whole report is in {output / PAGE_FILE}")

    return evaluate


def run(options: Options, output: Path, run_tasks: Runner) -> EvaluationReport:
    """Runs the tasks that are missing for a report, then writes it into `output`.

    Raises ValueError, CheckpointError or FileNotFoundError for options that cannot be evaluated.
    """
    planned = plan_evaluation(options, output)
    total, left = (sum(task.chunks for task in tasks) for tasks in (planned.tasks, planned.missing()))
    with _progress() as bar:
        shown_task = bar.add_task("playing", total=total, completed=total - left)
        run_tasks(
            options,
            planned.missing(),
            planned.folder.resolve(),
            lambda chunks: bar.advance(shown_task, chunks),
        )
    report, pictures = make_report(planned)
    write_report(report, output / REPORT_FILE)
    write_page(report, pictures, output)
    return report


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )


def _table(report: EvaluationReport) -> Table:
    table = Table("figure", "value [95 % interval]", "wanted", "", title=report.checkpoint)
    for name, figure in report.figures.items():
        table.add_row(name, shown(figure), METRICS[name].wanted(), METRICS[name].reached(figure))
    return table
