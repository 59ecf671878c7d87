"""Trains one stage without Ray: `python -m gamegen.training vae --data DIR --output DIR`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from gamegen.process.command import run_command
from gamegen.training.loop import Run
from gamegen.training.run_stage import run_stage
from gamegen.training.stages.table import STAGES, load_stage, shards_help, stage_file


def train(
    stage: Annotated[str, typer.Argument(help=f"{', '.join(STAGES)}, or a YAML file")],
    data: Annotated[Path, typer.Option(help=shards_help())],
    output: Annotated[Path, typer.Option(help="checkpoint folder; an interrupted run there is resumed")],
    init: Annotated[str | None, typer.Option(help="checkpoint the stage builds on")] = None,
    minutes: Annotated[float | None, typer.Option(help="stop after this long")] = None,
) -> None:
    """Trains one stage on this machine.

    Example: python -m gamegen.training vae --data curated --output runs/vae
    """
    try:
        config = load_stage(stage_file(stage))
        run = Run(output=output, minutes=minutes, data=str(data), init=init or "")
        run_stage(stage=config, data=data, run=run, init=init)
    except KeyboardInterrupt as interrupt:
        print("gamegen: stopped and saved; run the same command again to go on", file=sys.stderr)
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        raise SystemExit(128 + number) from None


if __name__ == "__main__":
    run_command(train)
