"""What Ray Train costs: the same stage on the same data with Ray and without, in one run on one machine.

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
from gamegen.training.config import StageConfig
from gamegen.training.stages import load_stage, stage_file
from jobs import train
from jobs.cluster import connect

LOGS = 10
"""Rows in the log of one run; the first is warm-up."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Way:
    """One way to run a stage: with so many of Ray's workers (0: the bare loop) of so many threads."""

    workers: int
    threads: int

    @property
    def name(self) -> str:
        """For people."""
        if not self.workers:
            return "bare loop"
        return f"Ray Train, {self.workers} " + ("worker" if self.workers == 1 else "workers")

    @property
    def total_threads(self) -> int:
        """Threads of all processes."""
        return max(1, self.workers) * self.threads


def ways(cores: int) -> list[Way]:
    """The bare loop and one worker with one thread, then both with every core, then two workers that share them.

    Of an odd number of cores one is left out, or two workers would have one less than one.
    """
    alone = [Way(0, 1), Way(1, 1)]
    half = cores // 2
    return [*alone, Way(0, 2 * half), Way(1, 2 * half), Way(2, half)] if half else alone


@dataclass(frozen=True)
class Measured:
    """One way to run, over all rounds: steps and seconds after warm-up, windows a step over all processes."""

    way: Way
    samples_per_step: int
    steps: int
    seconds: float
    input_wait_share: float

    @property
    def samples_per_s(self) -> float:
        """Windows a second, start-up left out."""
        return self.samples_per_step * self.steps / self.seconds

    def plus(self, other: Measured) -> Measured:
        """Both rounds as one."""
        steps = self.steps + other.steps
        wait = (self.input_wait_share * self.steps + other.input_wait_share * other.steps) / steps
        return replace(self, steps=steps, seconds=self.seconds + other.seconds, input_wait_share=wait)


def run(stage: StageConfig, data: Path, init: str, steps: int, rounds: int) -> list[Measured]:
    """The bare loop and Ray Train in each of this machine's `ways`; needs a running Ray.

    Rounds take turns, so that what else a machine does meets all of them. Each run trains `steps` steps in a folder
    that is deleted afterwards. Raises ValueError for fewer steps than log rows.
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
        # Steps of one kind, in two parts for everyone: who shares them with another does the same work.
        buckets=stage.buckets[:1],
        batch_size=2 * -(-stage.batch_size // 2),
        micro_batches=2,
    )
    totals: dict[Way, Measured] = {}
    with tempfile.TemporaryDirectory(prefix="gamegen-bench-") as name:
        folder = Path(name)
        file = folder / "stage.yaml"
        file.write_text(yaml.safe_dump(json.loads(json.dumps(to_dict(stage)))))
        for i in range(rounds):
            for way in ways(os.cpu_count() or 1):
                output = folder / f"{i}-{way.workers}-{way.threads}"
                if way.workers:
                    train.run(str(file), data, output, init, workers=way.workers, threads=way.threads)
                else:
                    _run_bare(file, data, output, init, way.threads)
                measured = _measured(way, output, stage.batch_size)
                totals[way] = totals[way].plus(measured) if way in totals else measured
    return list(totals.values())


def table(results: list[Measured]) -> Table:
    """The results with the share of the speed of the bare loop that has as many threads."""
    bare = {result.way.threads: result for result in results if not result.way.workers}
    columns = ("", "threads each", "steps", "samples/s", "waiting for input", "of the bare loop")
    table = Table(*columns, title="Training steps")
    for result in results:
        table.add_row(
            result.way.name,
            str(result.way.threads),
            str(result.steps),
            f"{result.samples_per_s:.2f}",
            f"{result.input_wait_share:.1%}",
            f"{result.samples_per_s / bare[result.way.total_threads].samples_per_s:.1%}",
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


def _measured(way: Way, output: Path, samples_per_step: int) -> Measured:
    first, *rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    steps, seconds = rows[-1]["step"] - first["step"], rows[-1]["elapsed_s"] - first["elapsed_s"]
    wait = sum(row["input_wait_share"] for row in rows) / len(rows)
    return Measured(way, samples_per_step, steps, seconds, wait)


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
    connect()
    try:
        results = run(load_stage(stage_file(stage)), data.resolve(), init, steps, rounds)
    except (ValueError, FileNotFoundError) as error:
        print(f"gamegen: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    Console().print(table(results))


if __name__ == "__main__":
    app()
