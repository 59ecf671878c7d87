"""Load of many players who come and go on a running server, for minutes or hours.

gamegen load http://127.0.0.1:8000 --sessions 8 --arrival-rate 0.5 --minutes 10
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deployments.stream.client_messages import Format
from gamegen.constants import FPS
from gamegen.process.command import run_command
from loadtest.load.arrivals import full_at_s
from loadtest.load.crowd import Counts, LoadConfig, run
from loadtest.load.load_figures import figures
from loadtest.load.load_report import missed, table, write_json
from loadtest.load.server_memory import MemorySampler, is_local
from loadtest.players.socket_player import Server

_SAMPLES = 60
_SHORTEST_SAMPLING_S, _LONGEST_SAMPLING_S = 1.0, 10.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class _ProgressDisplay:
    """Progress bar of a run; samples the server's memory meanwhile."""

    def __init__(self, config: LoadConfig, bar: Progress, sampler: MemorySampler | None) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=60 * config.minutes, text="players arrive")
        self._sampler = sampler
        self._interval_s = min(_LONGEST_SAMPLING_S, max(_SHORTEST_SAMPLING_S, 60 * config.minutes / _SAMPLES))
        self._began_s = self._sampled_s = self._shown_s = time.monotonic()
        self._frames = 0

    def __call__(self, counts: Counts) -> None:
        now_s = time.monotonic()
        if self._sampler and now_s - self._sampled_s >= self._interval_s:
            self._sampled_s = now_s
            self._sampler.sample()
        if now_s - self._shown_s < 1.0:
            return
        rate = (counts.frames - self._frames) / (now_s - self._shown_s) / max(1, counts.players)
        self._shown_s, self._frames = now_s, counts.frames
        text = (
            f"{counts.players} play, {rate:.1f} frames/s each, {counts.refused} refused, {counts.lost} lost"
        )
        self._bar.update(self._task, completed=now_s - self._began_s, text=text)


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Yields a list that Ctrl-C makes longer; the second one is not held back."""
    told: list[int] = []

    def note(number: int, _frame: object) -> None:
        told.append(number)
        signal.signal(number, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield told
    finally:
        signal.signal(signal.SIGINT, before)


@app.command()
def main(
    url: Annotated[str, typer.Argument(help="a running server")] = "http://127.0.0.1:8000",
    sessions: Annotated[int, typer.Option(min=1, help="players at once")] = 4,
    arrival_rate: Annotated[
        float, typer.Option(help="players a second that come until all places are taken")
    ] = 1.0,
    minutes: Annotated[float, typer.Option(help="how long they play")] = 1.0,
    mean_stay: Annotated[float, typer.Option(help="how long a player stays on average, in seconds")] = 120.0,
    seed: Annotated[int, typer.Option(help="the same seed plays the same crowd")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="processes that share the players")] = 1,
    frame_format: Annotated[
        Format, typer.Option("--format", help="what frames are sent as: files, or H.264 for thin links")
    ] = "jpeg",
    pids: Annotated[
        str | None,
        typer.Option(
            help="processes whose memory, with their children's, is watched: 17,18; else the server's"
        ),
    ] = None,
    fps: Annotated[
        int,
        typer.Option(min=4, max=24, help="frames a second that players ask for: fewer make worlds slower"),
    ] = FPS,
    require_attainment: Annotated[
        float | None, typer.Option(help="exit with 1 if less than this share of chunks came in time")
    ] = None,
    require_pace: Annotated[
        float | None, typer.Option(help="exit with 1 if less than this share were due at the rate asked for")
    ] = None,
    require_fps: Annotated[
        float | None, typer.Option(help="exit with 1 if players got fewer frames a second on average")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the same figures")] = None,
) -> None:
    """Plays on a running server with many players who come and go, and measures what they get.

    Ctrl-C ends it early and shows what there is.
    Example: gamegen load http://127.0.0.1:8000 --sessions 8 --arrival-rate 0.5 --minutes 10
    """
    console = Console()
    url = url.rstrip("/")
    config = LoadConfig(
        url=url,
        sessions=sessions,
        arrival_rate=arrival_rate,
        minutes=minutes,
        mean_stay_s=mean_stay,
        seed=seed,
        processes=processes,
        fps=fps,
        frame_format=frame_format,
    )
    full_s = full_at_s(config.visits(), sessions) or 0.0
    status = Server(url).status()
    roots = [int(pid) for pid in pids.split(",")] if pids else []
    sampler = MemorySampler(url, roots) if roots or is_local(url) else None
    columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[text]}")
    with Progress(*columns, console=console, transient=True) as bar, _stop_on_signal() as told:
        crowd = run(config, _ProgressDisplay(config, bar, sampler), lambda: bool(told))
    result = figures(crowd, sampler.memory(crowd.began_s + full_s) if sampler else None, fps)
    console.print(table(config, result))
    if json_file:
        write_json(json_file, config, status, result)
    limits = {"attainment": require_attainment, "on_pace": require_pace, "fps_mean": require_fps}
    sentences = missed(result, limits)
    for sentence in sentences:
        print(f"gamegen: {sentence}", file=sys.stderr)
    if sentences:
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(app)
