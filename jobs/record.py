"""Records footage on Ray: one world and one recorder a task, resumable clip by clip.

python -m jobs.record --game minetest --hours 2.0 --output footage --size 256x144 --seed 1
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import ray
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gamegen.footage import sources
from gamegen.footage.plan import ClipPlan, PlanConfig, num_clips, plan_every_scene, plan_worlds
from gamegen.footage.recording import clip_is_recorded, record_world
from gamegen.media.size import Size
from gamegen.process.command import run_command
from jobs.cluster import connect

POLL_S = 1.0
DEFAULT_HOURS = 1.0
MIN_SIDE = 64
"""Pixels of the shortest side that games are recorded at."""


@dataclass(frozen=True)
class RecordConfig:
    """Game, amount and target of a recording; sizes in pixels. `recorders` None means one for each free core.

    `hours` None records every scene: each biome in each weather, time of day and view.

    Recorders start `start_gap_s` apart: games that draw their port from the clock would take the same one.
    """

    game: str
    hours: float | None
    output: Path
    width: int = 256
    height: int = 144
    seed: int = 1
    recorders: int | None = None
    start_gap_s: float = 3.0
    plan: PlanConfig = field(default_factory=PlanConfig)


def _record_world_task(game: str, size: tuple[int, int], plans: list[ClipPlan], output: Path) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return record_world(lambda seed: sources.open_recorder(game, seed, size), plans, output)


def _plans(config: RecordConfig) -> list[list[ClipPlan]]:
    biomes = sources.biomes_of(config.game)
    if config.hours is None:
        return plan_every_scene(config.game, biomes, config.seed, config.plan)
    clips = num_clips(config.hours, config.plan)
    return plan_worlds(config.game, biomes, clips, config.seed, config.plan)


def record(config: RecordConfig, progress: Progress | None = None) -> int:
    """Records the clips that `config.output` lacks; returns the number of new clips.

    Needs an initialised Ray. A world whose recorder fails is left for the next run, and RuntimeError is
    raised at the end. On KeyboardInterrupt the running recorders are closed; whole clips stay.
    """
    worlds = _plans(config)
    plans = [plan for world in worlds for plan in world]
    waiting = [w for w in worlds if not all(clip_is_recorded(plan, config.output) for plan in w)]
    bar = progress.add_task(f"recording {config.game}", total=len(plans)) if progress else None
    limit = config.recorders or max(1, int(ray.available_resources().get("CPU", 1)))
    task = ray.remote(num_cpus=1, max_retries=1)(_record_world_task)
    running: dict[ray.ObjectRef, int] = {}
    recorded, failures = 0, []
    try:
        while waiting or running:
            if waiting and len(running) < limit:
                world = waiting.pop(0)
                reference = task.remote(
                    config.game, (config.width, config.height), world, config.output.resolve()
                )
                running[reference] = world[0].world_seed
                time.sleep(config.start_gap_s)
            done, _ = ray.wait(list(running), timeout=0 if waiting and len(running) < limit else POLL_S)
            for reference in done:
                world_seed = running.pop(reference)
                try:
                    recorded += ray.get(reference)
                except ray.exceptions.RayError as error:
                    failures.append(f"world {world_seed}: {error}")
            if progress and bar is not None:
                progress.update(bar, completed=sum(clip_is_recorded(plan, config.output) for plan in plans))
    finally:
        for reference in running:
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=20)
    if failures:
        raise RuntimeError(
            f"{len(failures)} worlds failed; run again to record the rest\n" + "\n".join(failures)
        )
    return recorded


def parse_size(text: str) -> Size:
    """The size that `256x144` names. Raises ValueError unless both sides are even and at least 64."""
    size = Size.parse(text)
    if min(size) < MIN_SIDE:
        raise ValueError(f"size = {text}: record at least {MIN_SIDE}x{MIN_SIDE}, for example 256x144")
    if size.width % 2 or size.height % 2:
        raise ValueError(f"size = {text}: H.264 needs even numbers, for example 256x144")
    return size


def run(
    output: Annotated[Path, typer.Option(help="Folder for the clips and their rows.")],
    game: Annotated[str, typer.Option(help="minetest or vizdoom.")] = "minetest",
    hours: Annotated[
        float | None, typer.Option(help="Hours of footage in all, recorded ones included; 1 by default.")
    ] = None,
    every_scene: Annotated[
        bool,
        typer.Option(
            "--every-scene",
            help="Each biome in each weather, time of day and view once, for galleries, however long that takes.",
        ),
    ] = False,
    size: Annotated[str, typer.Option(help="Picture size in pixels.")] = "256x144",
    seed: Annotated[int, typer.Option(help="Seed of worlds, scenes and play.")] = 1,
    recorders: Annotated[
        int | None, typer.Option(help="Recorders at once; one a free core by default.")
    ] = None,
) -> None:
    """Record playable footage with its keys, truth and words. Run again to go on where it stopped.

    Example: gamegen record --game minetest --hours 2 --output footage/
    """
    width, height = parse_size(size)
    if every_scene and hours is not None:
        raise ValueError("--hours and --every-scene: every scene takes as long as it does, give one of them")
    if hours is None and not every_scene:
        hours = DEFAULT_HOURS
    config = RecordConfig(game, hours, output, width, height, seed, recorders)
    connect()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        try:
            count = record(config, progress)
        except KeyboardInterrupt:
            progress.console.print("stopped; run again to go on")
            raise typer.Exit(130) from None
    typer.echo(f"recorded {count} new clips in {output}")


if __name__ == "__main__":
    run_command(run)
