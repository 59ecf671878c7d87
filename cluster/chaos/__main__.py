"""Kills parts of the running application while clips are ordered, and checks that nothing is lost or done twice.

gamegen chaos videos --jobs 500 --clients 20
"""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from cluster.chaos.chaos_report import table, write_json
from cluster.chaos.order_requests import new_requests
from deployments.environment import set_environment
from gamegen.process.command import run_command
from loadtest.small_model import small_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    jobs: Annotated[int, typer.Option(min=1, max=5000, help="orders, no two of them the same")] = 500,
    clients: Annotated[int, typer.Option(min=1, max=200, help="clients at once")] = 20,
    kills: Annotated[int, typer.Option(min=0, max=100, help="how often each kind is killed")] = 4,
    kinds: Annotated[str | None, typer.Option(help="what is killed: Generator,PostgreSQL")] = None,
    frames: Annotated[int, typer.Option(min=1, help="of each clip")] = 8,
    steps: Annotated[int, typer.Option(min=1, max=100, help="of denoising, for each four frames")] = 25,
    seed: Annotated[int, typer.Option(help="the same seed kills in the same order")] = 0,
    model: Annotated[
        str | None, typer.Option(help="instead of random weights at their smallest: nano:precision=int8")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="file for the same figures as JSON")] = None,
) -> None:
    """Starts the application, has clips ordered by many clients at once, and kills its parts at random meanwhile.

    Parts are a Generator, Decoder, TextEncoder, Ingress or Clerk replica, and PostgreSQL. Every clip is first drawn
    without the service: what the service makes of it must be the same to the last bit. Nothing else has to run, and
    everything is gone afterwards. Ends with 1 if anything is lost, done twice, held twice or drawn otherwise.
    Example: gamegen chaos videos --jobs 500 --clients 20 --output chaos.json
    """
    set_environment()
    console = Console()
    # A service manager's signal leaves nothing running either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from cluster.chaos.local_application import Kind, chaos_settings, local_application
    from cluster.chaos.run import RunConfig, run
    from cluster.chaos.undisturbed import undisturbed

    chosen = [Kind(kind) for kind in kinds.split(",")] if kinds else list(Kind)
    with contextlib.ExitStack() as stack:
        settings = chaos_settings(model or stack.enter_context(small_model()))
        orders = new_requests(jobs, frames, steps)
        with Progress(console=console, transient=True) as bar:
            drawn = bar.track(undisturbed(settings, orders), jobs, description="drawing undisturbed")
            expected = dict(drawn)
        status = stack.enter_context(console.status("starting the application"))
        scene = stack.enter_context(local_application(settings))
        config = RunConfig(
            clients=clients,
            kinds=chosen,
            kills=kills,
            seed=seed,
            most_repeated=settings.generator.work.checkpoint_every_steps,
        )
        outcome = run(scene, orders, expected, config, status.update)
        status.update("stopping")
    console.print(table(outcome.verdict, outcome.kills, clients, outcome.wall_s))
    if output:
        asked = {
            "jobs": jobs,
            "clients": clients,
            "kills": kills,
            "kinds": chosen,
            "frames": frames,
            "steps": steps,
            "seed": seed,
            "model": model,
        }
        write_json(output, asked, outcome.verdict, outcome.kills, outcome.wall_s)
    for fault in outcome.verdict.faults:
        print(f"gamegen: {fault}", file=sys.stderr)
    if outcome.verdict.faults:
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(app)
