"""Figures of a few players of a running server: frames a second, gaps, and the time from a key to its frame.

gamegen bench serve http://127.0.0.1:8000 --sessions 2 --seconds 60

With --videos, figures of clients that order clips.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from gamegen.bench.paired import summary_ms
from gamegen.process.command import run_command
from loadtest.bench_serve import serve_cost, video_bench
from loadtest.load.load_figures import STALL_S, stages_ms
from loadtest.load.load_report import STAGES, percentiles
from loadtest.players.key_tracks import load_tracks
from loadtest.players.play_record import PlayerStay
from loadtest.players.socket_player import RefusedError, Server, SocketPlayer

SETTLING_S = 3.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, kw_only=True)
class PlayFigures:
    """Figures over all players; `frames_per_s` is one player's mean."""

    sessions: int
    seconds: float
    frames_per_s: float
    gaps_ms: dict[str, float]
    underruns: int
    longest_gap_ms: float
    dropped: int
    key_to_frame_ms: dict[str, float]
    beyond_pacing_ms: dict[str, float]
    stages_ms: dict[str, float]


def figures(players: list[PlayerStay], seconds: float) -> PlayFigures:
    """Computes the figures of all players; raises ValueError if a session showed no frames or no key was answered."""
    if any(len(p.frames) < 2 for p in players):
        raise ValueError("a session showed no frames: is the server overloaded? See its log")
    gaps = np.concatenate([p.gaps_s() for p in players])
    answers = np.concatenate([p.answers() for p in players])
    if not len(answers):
        raise ValueError("no key was answered: play for longer, or see the server's log")
    return PlayFigures(
        sessions=len(players),
        seconds=seconds,
        frames_per_s=float(np.mean([1 / p.gaps_s().mean() for p in players])),
        gaps_ms=summary_ms(gaps),
        underruns=int((gaps > STALL_S).sum()),
        longest_gap_ms=float(gaps.max() * 1e3),
        dropped=sum(p.dropped for p in players),
        key_to_frame_ms=summary_ms(answers["taken_s"]),
        # A chunk is begun as late as its first frame's turn allows: what a key waits until then is the game's pace.
        beyond_pacing_ms=summary_ms(answers["taken_s"] - answers["wait_s"]),
        stages_ms={name: ms["mean"] for name, ms in stages_ms(answers).items()},
    )


def table(result: PlayFigures) -> Table:
    """Table of the figures, for the terminal."""
    shown = Table("", "", title=f"{result.sessions} players for {result.seconds:.0f} s")
    rows = {
        "frames a second, each": f"{result.frames_per_s:.2f}",
        "time between frames, p50 / p95 / p99": percentiles(result.gaps_ms),
        f"gaps over {STALL_S * 1e3:.0f} ms": f"{result.underruns}, longest {result.longest_gap_ms:.0f} ms",
        "frames dropped": str(result.dropped),
        "from key to its first frame, p50 / p95 / p99": percentiles(result.key_to_frame_ms),
        "the same, once its chunk begins": percentiles(result.beyond_pacing_ms),
        **{f"  of it: {STAGES[name]}": f"{ms:.0f} ms" for name, ms in result.stages_ms.items()},
    }
    for name, value in rows.items():
        shown.add_row(name, value)
    return shown


async def measure(url: str, sessions: int, seconds: float) -> PlayFigures:
    """Plays `sessions` at once for `seconds`; raises ValueError if one is refused or lost."""
    server, tracks, stop = Server(url), load_tracks(), asyncio.Event()
    opened = []
    try:
        for number in range(sessions):
            opened.append(server.begin(tracks[number % len(tracks)].prompt, number))
        began_s = time.monotonic()
        played = await asyncio.gather(
            *(
                SocketPlayer(server, session, tracks[number % len(tracks)], number).play(
                    began_s + SETTLING_S + seconds, stop
                )
                for number, session in enumerate(opened)
            )
        )
    except RefusedError as error:
        raise ValueError(f"session {len(opened) + 1} of {sessions}: {error}") from error
    finally:
        for session in opened:
            server.end(session["id"])
    lost = [stay.lost for stay in played if stay.lost]
    if lost:
        raise ValueError(f"a session was lost: {lost[0]}")
    # The first chunks fill the cache.
    return figures([stay.since(began_s + SETTLING_S) for stay in played], seconds)


@app.command()
def main(
    url: Annotated[str, typer.Argument(help="a running server")] = "http://127.0.0.1:8000",
    sessions: Annotated[int, typer.Option(min=1, help="players at once")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="how long they play")] = 30,
    bare: Annotated[
        bool,
        typer.Option("--bare", help="in turns with the same model drawing here, to see what serving costs"),
    ] = False,
    videos: Annotated[
        bool, typer.Option("--videos", help="order clips instead: of a server with --settings noop")
    ] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="order from an ingress replica itself, past Serve's proxy")
    ] = False,
    orders: Annotated[int, typer.Option(min=1, help="clips to order")] = 1000,
    clients: Annotated[int, typer.Option(min=1, max=256, help="who order them")] = 16,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the same figures")] = None,
) -> None:
    """Plays on a running server and measures what players get, or those who order clips.

    Example: gamegen bench serve http://127.0.0.1:8000 --sessions 2 --seconds 60
    """
    url = url.rstrip("/")
    if bare:
        _compare(url, sessions, seconds, json_file)
        return
    if videos:
        url = video_bench.direct_url(url) if direct else url
        _order_videos(url, video_bench.VideoBench(orders=orders, clients=clients, seconds=seconds), json_file)
        return
    result = asyncio.run(measure(url, sessions, seconds))
    Console().print(table(result))
    if json_file:
        _write(json_file, result.__dict__)


def _order_videos(url: str, bench: video_bench.VideoBench, json_file: Path | None) -> None:
    found = video_bench.measure(url, bench)
    Console().print(video_bench.table(url, found))
    if json_file:
        _write(json_file, found.__dict__)


def _compare(url: str, sessions: int, seconds: float, json_file: Path | None) -> None:
    async def serve(round_s: float) -> tuple[float, float]:
        result = await measure(url, sessions, round_s)
        return sessions * result.frames_per_s, result.beyond_pacing_ms["p50"]

    cost = asyncio.run(serve_cost.compare(serve_cost.bare_play(url, sessions), serve, seconds))
    Console().print(serve_cost.table(cost, sessions))
    if json_file:
        _write(json_file, cost.__dict__ | {"share": cost.share, "added_ms": cost.added_ms})


def _write(file: Path, facts: dict[str, Any]) -> None:
    file.write_text(json.dumps(facts | {"command": sys.argv}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(app)
