"""Overhead of Ray Train: one stage on the same data with Ray and without, in one run on one machine.

python -m jobs.bench --data encoded/ --rounds 2
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from gamegen.config import to_dict
from gamegen.process.command import run_command
from gamegen.training.stages.stage import Stage
from gamegen.training.stages.table import load_stage, stage_file
from jobs import train
from jobs.cluster import connect

LOGS = 10
"""Rows in the log of one run; the first is warm-up."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Setup:
    """A configuration of workers (0: the bare loop without Ray) and threads for each."""

    workers: int
    threads: int

    @property
    def name(self) -> str:
        """Label in the table."""
        if not self.workers:
            return "bare loop"
        return f"Ray Train, {self.workers} " + ("worker" if self.workers == 1 else "workers")

    @property
    def total_threads(self) -> int:
        """Threads of all processes."""
        return max(1, self.workers) * self.threads


def setups(cores: int) -> list[Setup]:
    """Setups to compare: bare loop and one worker with one thread, both with every core, two workers that share them.

    Of an odd number of cores one is left out, or two workers would have one less than one.
    """
    alone = [Setup(0, 1), Setup(1, 1)]
    half = cores // 2
    return [*alone, Setup(0, 2 * half), Setup(1, 2 * half), Setup(2, half)] if half else alone


@dataclass(frozen=True)
class Throughput:
    """Throughput of a setup over all rounds: steps and seconds after warm-up, windows a step over all processes."""

    setup: Setup
    samples_per_step: int
    steps: int
    seconds: float
    input_wait_share: float

    @property
    def samples_per_s(self) -> float:
        """Windows a second after warm-up."""
        return self.samples_per_step * self.steps / self.seconds

    def plus(self, other: Throughput) -> Throughput:
        """The sum of two rounds."""
        steps = self.steps + other.steps
        wait = (self.input_wait_share * self.steps + other.input_wait_share * other.steps) / steps
        return replace(self, steps=steps, seconds=self.seconds + other.seconds, input_wait_share=wait)


def run(stage: Stage, data: Path, init: str, steps: int, rounds: int) -> list[Throughput]:
    """Trains in each of this machine's `setups`; needs a running Ray.

    Rounds alternate, so that other load on the machine affects all setups alike. Each run trains `steps` steps in a
    folder that is deleted afterwards. Raises ValueError for fewer steps than log rows.
    """
    if steps < LOGS:
        raise ValueError(f"steps = {steps}: take at least {LOGS}, the first tenth is warm-up")
    every = steps // LOGS
    stage = replace(
        stage,
        steps=every * LOGS,
        log_every=every,
        save_every=10 * steps,
        validation_batches=0,
        # Equal steps in two micro-batches, so that two workers that share them do the same work.
        buckets=stage.buckets[:1],
        batch_size=2 * -(-stage.batch_size // 2),
        micro_batches=2,
    )
    totals: dict[Setup, Throughput] = {}
    with tempfile.TemporaryDirectory(prefix="gamegen-bench-") as name:
        folder = Path(name)
        file = folder / "stage.yaml"
        file.write_text(yaml.safe_dump(json.loads(json.dumps(to_dict(stage)))))
        for i in range(rounds):
            for setup in setups(os.cpu_count() or 1):
                output = folder / f"{i}-{setup.workers}-{setup.threads}"
                if setup.workers:
                    train.run(str(file), data, output, init, workers=setup.workers, threads=setup.threads)
                else:
                    _run_bare(file, data, output, init, setup.threads)
                measured = _read_throughput(setup, output, stage.batch_size)
                totals[setup] = totals[setup].plus(measured) if setup in totals else measured
    return list(totals.values())


def table(results: list[Throughput]) -> Table:
    """Table of the results, with the speed relative to the bare loop of as many threads."""
    bare = {result.setup.threads: result for result in results if not result.setup.workers}
    columns = ("", "threads each", "steps", "samples/s", "waiting for input", "of the bare loop")
    table = Table(*columns, title="Training steps")
    for result in results:
        table.add_row(
            result.setup.name,
            str(result.setup.threads),
            str(result.steps),
            f"{result.samples_per_s:.2f}",
            f"{result.input_wait_share:.1%}",
            f"{result.samples_per_s / bare[result.setup.total_threads].samples_per_s:.1%}",
        )
    return table


def _run_bare(file: Path, data: Path, output: Path, init: str, threads: int) -> None:
    # A process of its own, as Ray's worker is.
    command = [sys.executable, "-m", "gamegen.training", str(file), "--data", str(data), "--init", init]
    subprocess.run(
        [*command, "--output", str(output)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )


def _read_throughput(setup: Setup, output: Path, samples_per_step: int) -> Throughput:
    first, *rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    steps, seconds = rows[-1]["step"] - first["step"], rows[-1]["elapsed_s"] - first["elapsed_s"]
    wait = sum(row["input_wait_share"] for row in rows) / len(rows)
    return Throughput(setup, samples_per_step, steps, seconds, wait)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="encoded shards (curated ones for vae and decoder)")],
    stage: Annotated[str, typer.Option(help="a stage's name, or a YAML file")] = "instructnet",
    init: Annotated[str, typer.Option(help="checkpoint the stage builds on")] = "nano",
    steps: Annotated[int, typer.Option(help="steps of each run")] = 50,
    rounds: Annotated[int, typer.Option(help="how often each is run")] = 1,
) -> None:
    """Compares training on Ray with the bare loop.

    Example: gamegen bench ray --data data/encoded --steps 50 --rounds 2
    """
    config = load_stage(stage_file(stage))
    # Before the first round, so that the bare loop shares the machine with Ray as well.
    connect()
    results = run(config, data.resolve(), init, steps, rounds)
    Console().print(table(results))


if __name__ == "__main__":
    run_command(app)
