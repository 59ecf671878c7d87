"""`gamegen videos`: orders clips from a running server, watches them and fetches them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column, Table

if TYPE_CHECKING:
    from gamegen_client import Client

videos = typer.Typer(
    no_args_is_help=True,
    help="Orders clips from a running server. An API key is read from GAMEGEN_API_KEY.",
)

Url = Annotated[str, typer.Option("--url", envvar="GAMEGEN_URL", help="where the server is")]
VideoId = Annotated[str, typer.Argument(help="as gamegen videos create or list print it")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="file for the clip when it is done")]
_LOCAL = "http://127.0.0.1:8000"
_ID_CHARACTERS = 38


@videos.command()
def create(
    prompt: Annotated[str, typer.Argument(help="what the world looks like")],
    negative_prompt: Annotated[str | None, typer.Option("--not", help="what is not to be seen")] = None,
    perspective: Annotated[str | None, typer.Option(help="first or third")] = None,
    image: Annotated[Path | None, typer.Option(help="picture to begin with")] = None,
    video: Annotated[Path | None, typer.Option(help="video to go on from")] = None,
    frames: Annotated[int | None, typer.Option(help="at 24 a second")] = None,
    seconds: Annotated[float | None, typer.Option(help="instead of --frames")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, both even")] = None,
    resolution: Annotated[
        str | None, typer.Option(help="nano, 480p, 720p, 1080p or 4k, instead of --size")
    ] = None,
    aspect_ratio: Annotated[str | None, typer.Option(help="such as 16:9, with --resolution")] = None,
    fps: Annotated[int | None, typer.Option(help="of the file, 24, 30 or 60")] = None,
    steps: Annotated[int | None, typer.Option(help="of denoising, for each chunk")] = None,
    guidance: Annotated[float | None, typer.Option(help="how closely the prompt is followed")] = None,
    solver: Annotated[str | None, typer.Option(help="euler, heun or consistency")] = None,
    seed: Annotated[int | None, typer.Option(help="the same seed draws the same clip")] = None,
    tier: Annotated[str | None, typer.Option(help="realtime, standard or cinema")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 9, which goes first")] = None,
    webhook_url: Annotated[str | None, typer.Option("--webhook", help="https address to tell")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="its files stay beyond their time")] = False,
    request_id: Annotated[
        str | None, typer.Option(help="the same one and order is the same video, however often it is sent")
    ] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="wait until it has ended")] = False,
    output: Output = None,
    url: Url = _LOCAL,
) -> None:
    """Orders a clip and prints its id; with -o it is waited for and fetched.

    Example: gamegen videos create "snowy forest at night" --frames 48 --seed 7 -o clip.mp4
    """
    settings: dict[str, Any] = {
        "negative_prompt": negative_prompt,
        "perspective": perspective,
        "num_frames": frames,
        "seconds": seconds,
        "size": size,
        "resolution": resolution,
        "aspect_ratio": aspect_ratio,
        "fps": fps,
        "num_steps": steps,
        "guidance_scale": guidance,
        "solver": solver,
        "seed": seed,
        "tier": tier,
        "priority": priority,
        "webhook_url": webhook_url,
        "kept": keep or None,
    }
    with _client(url) as client:
        ordered = client.create(prompt, image, video, request_id, **settings)
        print(ordered["id"])
        if watch_it or output:
            _watch(client, ordered["id"], output)


@videos.command("list")
def list_videos(
    status: Annotated[str | None, typer.Option(help="such as queued, in_progress or completed")] = None,
    limit: Annotated[int, typer.Option(help="how many at most")] = 20,
    offset: Annotated[int, typer.Option(help="how many of the newest to leave out")] = 0,
    url: Url = _LOCAL,
) -> None:
    """Lists videos, the newest first."""
    with _client(url) as client:
        answer = client.list(status, limit, offset)
    columns = (
        Column("id", no_wrap=True, min_width=_ID_CHARACTERS),
        Column("state", no_wrap=True, min_width=10),
    )
    table = Table(*columns, "done", "prompt", caption=f"{answer['total']} in all")
    for video in answer["data"]:
        table.add_row(video["id"], video["state"], f"{video['progress']} %", video["prompt"])
    Console().print(table)


@videos.command()
def watch(video_id: VideoId, output: Output = None, url: Url = _LOCAL) -> None:
    """Waits until a video has ended, and shows its progress."""
    with _client(url) as client:
        _watch(client, video_id, output)


@videos.command()
def cancel(video_id: VideoId, url: Url = _LOCAL) -> None:
    """Cancels a video; what was not drawn is paid back."""
    with _client(url) as client:
        state = client.cancel(video_id)["state"]
    print(f"{video_id}: {state if state == 'CANCELLED' else 'stops at its next step'}")


@videos.command()
def download(
    video_id: VideoId,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="ID.mp4 or ID.jpg by default")] = None,
    thumbnail: Annotated[bool, typer.Option("--thumbnail", help="its small picture instead")] = False,
    url: Url = _LOCAL,
) -> None:
    """Fetches a finished clip; resumes an interrupted download."""
    file = output or Path(f"{video_id}.{'jpg' if thumbnail else 'mp4'}")
    with _client(url) as client:
        if thumbnail:
            print(client.thumbnail(video_id, file))
        else:
            _download(client, video_id, file)


@contextmanager
def _client(url: str) -> Iterator[Client]:
    """A client whose errors become ValueErrors with a sentence."""
    from gamegen_client import Client, GameGenError

    try:
        with Client(url, os.environ.get("GAMEGEN_API_KEY")) as client:
            yield client
    except GameGenError as error:
        raise ValueError(str(error)) from error


def _watch(client: Client, video_id: str, output: Path | None) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
    )
    video: dict[str, Any] = {}
    with Progress(*columns) as bar:
        task = bar.add_task("waiting", total=100, left="")
        for update in client.watch(video_id):
            video = update.video
            phase = video["state"].lower().replace("_", " ")
            bar.update(task, completed=video["progress"], description=phase, left=_left(video))
    if video["state"] != "COMPLETED":
        reason = video["error"]["message"] if video["error"] else "no reason is known"
        raise ValueError(f"{video_id} is {video['state']}: {reason}")
    if output:
        _download(client, video_id, output)


def _left(video: dict[str, Any]) -> str:
    left_s = video["remaining_s"]
    return "" if left_s is None else f"about {max(1, round(left_s))} s left"


def _download(client: Client, video_id: str, file: Path) -> None:
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn()) as bar:
        task = bar.add_task("fetching", total=None)
        client.download(
            video_id, file, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    print(file)
