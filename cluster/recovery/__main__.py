"""Kills parts of a cluster while people play on it, and measures how long their picture stops.

gamegen bench recovery --kills 3
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.recovery.local_cluster import local_cluster
from cluster.recovery.recovery_figures import figures
from cluster.recovery.recovery_report import missed, table, write_json
from cluster.recovery.trials import KINDS, Trial
from deployments.settings import CLUSTER_SETTINGS, load_settings
from gamegen.process.command import run_command
from loadtest.small_model import small_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    kills: Annotated[int, typer.Option(min=1, help="how often each kind is killed")] = 3,
    sessions: Annotated[int, typer.Option(min=1, help="players at once")] = 4,
    kinds: Annotated[str, typer.Option(help="what is killed, in this order")] = ",".join(KINDS),
    model: Annotated[
        str | None, typer.Option(help="instead of random weights at their smallest: nano:precision=int8")
    ] = None,
    settings: Annotated[str, typer.Option(help="a shipped name, or a YAML file")] = CLUSTER_SETTINGS,
    require_p95_s: Annotated[
        float | None, typer.Option(help="exit with 1 if a session is lost or p95 of the pauses is longer")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the same figures")] = None,
) -> None:
    """Starts a cluster of a head and two workers on this machine, plays on it, kills parts of it in turn.

    Parts are a World, Decoder or Ingress replica, a worker node with all that is on it, and the head, whose state is
    in a Valkey that stays. Nothing else has to run, and everything is gone afterwards.
    Example: gamegen bench recovery --kills 5 --kinds worker,head --json recovery.json
    """
    chosen = kinds.split(",")
    console = Console()
    # A service manager's signal leaves nothing running either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if unknown := [kind for kind in chosen if kind not in KINDS]:
        raise ValueError(f"--kinds {unknown[0]}: use some of {', '.join(KINDS)}")
    limit = load_settings(settings).ingress.max_sessions
    if sessions > limit:
        raise ValueError(f"--sessions {sessions}: {settings} lets {limit} play at once")
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(console.status("starting a head and two workers"))
        served = model or stack.enter_context(small_model())
        cluster = stack.enter_context(local_cluster(settings, served))
        status.update("starting the replicas")
        cluster.serve()
        trials = asyncio.run(Trial(cluster, status.update).run(chosen, kills, sessions))
        status.update("stopping")
    results = figures(trials)
    console.print(table(sessions, results))
    if json_file:
        config = {"kills": kills, "sessions": sessions, "kinds": chosen, "model": model}
        write_json(json_file, config, results)
    sentences = missed(results, require_p95_s)
    for sentence in sentences:
        print(f"gamegen: {sentence}", file=sys.stderr)
    if sentences:
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(app)
