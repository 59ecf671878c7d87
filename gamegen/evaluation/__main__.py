"""Checks whether a checkpoint can be played: `gamegen evaluate nano --seeds 20`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gamegen.curation.decode import decode_clip
from gamegen.device import keep_freed_memory
from gamegen.evaluation import motion
from gamegen.evaluation.control import ControlConfig, ControlEvaluator, contact_sheet
from gamegen.evaluation.report import REPORT_FILE, EvaluationReport, write_report
from gamegen.models.checkpoint import WEIGHTS_FILE, load_checkpoint
from gamegen.models.text import load_text_encoder
from gamegen.training.pictures import save_sheet


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="a shipped model or a checkpoint folder")],
    seeds: Annotated[int, typer.Option(help="worlds to play")] = 20,
    output: Annotated[Path, typer.Option(help="where report.json and sheet.png go")] = Path("evaluation"),
    clips: Annotated[Path | None, typer.Option(help="folder of real MP4 clips, for the detail ratio")] = None,
    long_play: Annotated[bool, typer.Option(help="also play for a minute")] = True,
) -> None:
    """Plays many seeds and prints in how many the world obeys.

    Example: gamegen evaluate nano --seeds 20 --clips tests/data/clips
    """
    keep_freed_memory()
    loaded = load_checkpoint(checkpoint)
    real = None
    if clips:
        files = sorted(clips.rglob("*.mp4"))
        size = (loaded.config.width, loaded.config.height)
        real = sum(motion.detail(motion_size(decode_clip(f)[::8], size)) for f in files) / max(len(files), 1)
    evaluator = ControlEvaluator(
        loaded.model, load_text_encoder(loaded.config.text_encoder), ControlConfig(num_seeds=seeds)
    )
    report = evaluator.run(real, long_play)
    table = Table("check", "value", title=f"{checkpoint}, {seeds} seeds")
    for name, value in report.figures.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)
    written = EvaluationReport(
        loaded.card["sha256"][WEIGHTS_FILE],
        evaluator.config.first_seed,
        seeds,
        report.figures,
        report.per_seed,
    )
    write_report(written, output / REPORT_FILE)
    save_sheet(contact_sheet(report), output / "sheet.png")


def motion_size(frames, size: tuple[int, int]):
    """Real frames at the model's size, cropped and area-averaged as in curation."""
    from gamegen.video import resize_to

    return resize_to(frames, size)


if __name__ == "__main__":
    typer.run(evaluate)
