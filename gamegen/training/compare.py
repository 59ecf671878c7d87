"""Comparison of checkpoints on the same held-out windows, for A/B runs of a stage.

    python -m gamegen.training.compare instructnet --data data/encoded runs/a runs/b

A run's own validation uses the stage's settings, so that runs with other windows or weights of the loss cannot be
compared by it. Here windows, noise and objective are those of one stage for all.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from gamegen.process.command import run_command
from gamegen.training.stages.stage import Stage
from gamegen.training.stages.table import load_stage, shards_help, stage_file
from gamegen.training.validation import held_out, measure


def compare(stage: Stage, data: Path, checkpoints: list[str]) -> dict[str, dict[str, float]]:
    """Mean metrics of each checkpoint over the stage's validation batches, by the checkpoint's name.

    Raises ValueError where the stage has no validation batches or cannot go on from a checkpoint.
    """
    found: dict[str, dict[str, float]] = {}
    for checkpoint in checkpoints:
        torch.manual_seed(stage.seed)
        model = stage.build_model(checkpoint, data, Path(checkpoint))
        objective = stage.objective(model)
        source = held_out(stage, data, stage.windows(model.config))
        if source is None:
            raise ValueError("validation_batches = 0: take a stage that has some")
        with torch.no_grad():
            found[checkpoint] = measure(objective, source.batches())
    return found


def main(
    stage: Annotated[
        str, typer.Argument(help="a stage or a YAML file, whose windows and objective are used")
    ],
    checkpoints: Annotated[list[str], typer.Argument(help="checkpoint folders")],
    data: Annotated[Path, typer.Option(help=shards_help())],
    batches: Annotated[int, typer.Option(help="how many batches of held-out windows")] = 12,
) -> None:
    """Prints the loss and the errors of checkpoints on the same held-out windows.

    Example: python -m gamegen.training.compare instructnet --data data/encoded runs/a runs/b
    """
    config = replace(load_stage(stage_file(stage)), validation_batches=batches)
    found = compare(config, data, checkpoints)
    names = list(next(iter(found.values())))
    table = Table("checkpoint", *(name.replace("_", " ") for name in names))
    for checkpoint, metrics in found.items():
        table.add_row(checkpoint, *(f"{metrics[name]:.4f}" for name in names))
    Console().print(table)


if __name__ == "__main__":
    run_command(main)
