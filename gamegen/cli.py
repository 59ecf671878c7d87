"""The `gamegen` command."""

from __future__ import annotations

import importlib
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gamegen.bench.commands import bench
from gamegen.evaluation.idm_command import idm
from gamegen.gallery.gallery_command import gallery
from gamegen.process.command import run_command
from gamegen.provenance.command import verify
from gamegen.registry.models_command import models
from gamegen.replay.command import replay
from gamegen.service.backup.commands import backup, restore
from gamegen.service.storage_command import storage
from gamegen.service.videos_command import videos
from gamegen.training.pack_command import pack

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Trains and serves playable game worlds.",
    epilog="Errors are one sentence; --debug, or GAMEGEN_DEBUG=1, shows the traceback as well.",
)
app.add_typer(models, name="models")
app.add_typer(bench, name="bench")
app.add_typer(idm, name="idm")
app.add_typer(gallery, name="gallery")
app.add_typer(videos, name="videos")
app.add_typer(storage, name="storage")
chaos = typer.Typer(no_args_is_help=True, help="Kills parts of a service while it is used.")
app.add_typer(chaos, name="chaos")
app.command()(replay)
app.command()(pack)
app.command()(verify)
app.command()(backup)
app.command()(restore)
_FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


class Program(NamedTuple):
    """A command that runs a module as a program of its own, and its help text."""

    module: str
    help: str


PROGRAMS = {
    "record": Program("jobs.record", "Records footage from a game as a Ray job"),
    "curate": Program("jobs.curate", "Sorts footage into training shards as a Ray job"),
    "encode": Program("jobs.encode", "Stores latents and text states beside the clips as a Ray job"),
    "train": Program("jobs.train", "Trains one stage as a Ray job"),
    "retention": Program("jobs.retention", "Removes what has been kept for long enough, as a Ray job"),
    "bench ray": Program("jobs.bench", "Compares training on Ray with the bare loop"),
    "bench serve": Program("loadtest.bench_serve", "Plays on a running server and measures what players get"),
    "bench recovery": Program(
        "cluster.recovery", "Kills parts of a cluster while people play, and measures their pauses"
    ),
    "chaos videos": Program(
        "cluster.chaos", "Orders clips while parts of the service are killed, and checks all of them"
    ),
    "load": Program("loadtest.load", "Plays on a running server with many players who come and go"),
}
"""Commands that run modules which the library must not import: Ray jobs, load tests and cluster tools."""
SERVER = "deployments.play"
"""The module that `gamegen play` loads: the Serve application."""
EVALUATION, EVALUATION_JOB = "gamegen.evaluation", "jobs.evaluate"
"""The modules that `gamegen evaluate` runs, without and with `--ray`."""

Model = Annotated[
    str,
    typer.Option("--model", help="a shipped model or a checkpoint folder, with changes: nano:num_steps=4"),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="what to write: .mp4 a video, .png a contact sheet")
]
Seed = Annotated[int, typer.Option(help="the same seed draws the same world")]
Perspective = Annotated[str, typer.Option(help="first or third")]


@app.command()
def play(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 8000,
    model: Annotated[str | None, typer.Option(help="instead of the shipped one in int8: runs/world")] = None,
    settings: Annotated[str, typer.Option(help="local, cluster, crowd, noop, or a YAML file")] = "local",
    metrics_port: Annotated[
        int | None, typer.Option(help="port on 127.0.0.1 where Prometheus reads metrics")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="another web site whose pages may use the server: https://play.example"),
    ] = None,
) -> None:
    """Starts the server and prints the address to open in a browser.

    Example: gamegen play --port 8080
    """
    play = importlib.import_module(SERVER).play
    play(
        host=host,
        port=port,
        model=model,
        settings_name=settings,
        metrics_port=metrics_port,
        allowed_origins=allow_origin or (),
    )


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="what the world looks like")],
    output: Output = Path("clip.mp4"),
    frames: Annotated[int, typer.Option(min=1, help="at 24 a second; 1440 are a minute")] = 102,
    seed: Seed = 0,
    perspective: Perspective = "first",
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the file, both even")] = None,
    fps: Annotated[int, typer.Option(help="24, 30 or 60 frames a second of the file")] = 24,
    negative_prompt: Annotated[str, typer.Option("--not", help="what is not to be seen")] = "",
    steps: Annotated[int | None, typer.Option(min=1, max=100, help="of denoising, for each chunk")] = None,
    guidance: Annotated[float | None, typer.Option(help="how closely the prompt is followed")] = None,
    solver: Annotated[str | None, typer.Option(help="euler, heun or consistency")] = None,
    model: Model = "nano",
) -> None:
    """Renders a clip from a prompt.

    Example: gamegen generate "snowy forest at night" -o clip.mp4 --frames 102 --seed 7
    """
    from gamegen.generation.clip_files import check_fps
    from gamegen.generation.clip_output import write_clip
    from gamegen.generation.spec import check_solver
    from gamegen.media.export import check_suffix
    from gamegen.media.size import Size, check_file_size
    from gamegen.pipeline import VideoPipeline

    check_suffix(output)
    check_fps(fps)
    chosen = check_solver(solver)
    asked = Size.parse(size) if size else None
    if asked:
        check_file_size(*asked)
    pipeline = VideoPipeline.load(model)
    drawn = pipeline.drawn_size(asked)
    with Progress() as bar:
        task = bar.add_task("drawing", total=None)
        video = pipeline.stream(
            prompt,
            num_frames=frames,
            seed=seed,
            perspective=perspective,
            size=drawn,
            negative_prompt=negative_prompt,
            num_steps=steps,
            guidance_scale=guidance,
            solver=chosen,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        write_clip(output, video, frames, size=asked or drawn, drawn=drawn, fps=fps)
    print(f"{output}: {frames} frames drawn at {drawn}, written at {asked or drawn} and {fps} a second")


@app.command("compile")
def compile_model(
    model: Annotated[str, typer.Argument(help="a checkpoint, with changes: runs/world:size=256x144")],
    output: Annotated[Path | None, typer.Option(help="folder for the graphs instead of the cache")] = None,
) -> None:
    """Exports a model's graphs, so that play on a CPU takes about half as long. Needed once for a structure and size.

    Example: gamegen compile runs/world:size=256x144
    """
    import os

    from gamegen.engine.engine import WorldEngine
    from gamegen.engine.latent_decoder import LatentDecoder
    from gamegen.engine.motion_prediction import build_motion_prediction
    from gamegen.engine.variants import Variant
    from gamegen.models.onnx import cache_folder

    if output:
        os.environ["GAMEGEN_CACHE"] = str(output)
    loaded = replace(Variant.parse(model), compiled=True).load()
    with Console().status("exporting graphs, a minute or two"):
        LatentDecoder(loaded)
        WorldEngine(loaded)
        if loaded.motion is not None:
            build_motion_prediction(loaded, loaded.config.latent_shape)
    print(f"graphs of {model} are in {cache_folder()}, or came with the package")


@app.command()
def rollout(
    prompt: Annotated[str, typer.Option(help="what the world looks like")],
    keys: Annotated[str, typer.Option(help="KEYS*FRAMES,... with keys joined by +, or none")],
    output: Output = Path("rollout.mp4"),
    seed: Seed = 0,
    perspective: Perspective = "first",
    instruct: Annotated[list[str] | None, typer.Option(help="FRAME:TEXT, may be repeated")] = None,
    save: Annotated[Path | None, typer.Option(help="file for its log, which gamegen replay reads")] = None,
    start: Annotated[
        str | None, typer.Option(help="gallery, drawn or picture; by default the --picture, or the gallery")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="picture or video that it goes on from")] = None,
    model: Model = "nano",
) -> None:
    """Plays the world from a script and writes what was seen.

    Keys are w a s d space e q left right up down.
    Example: gamegen rollout --prompt "desert at noon" --keys "w*24,w+d*24,left*24,none*24" --instruct "24:make it
    rain" --seed 7 -o out.mp4
    """
    from gamegen.constants import FRAMES_PER_CHUNK
    from gamegen.controls import Control, chunk_controls, parse_script
    from gamegen.media.export import check_suffix, write_by_suffix
    from gamegen.media.first_frames import read_first_frames
    from gamegen.sessions.log import LoggedInstruction, SessionLog, WorldSpec
    from gamegen.sessions.log_file import to_json
    from gamegen.sessions.start import parse_start
    from gamegen.world import World

    check_suffix(output)
    script = parse_script(keys)
    orders = dict(_parse_instruction(text, len(script)) for text in instruct or [])
    # Before the work: a script that makes no session is refused at once.
    controls = chunk_controls(script) if save else []
    world = World.load(model)
    file = picture.read_bytes() if picture else None
    frames = None if file is None else read_first_frames(file, world.size, world.engine.history)
    recorded = world.reset(prompt, seed, perspective, frames, parse_start(start))
    if save:
        spoken = [
            LoggedInstruction(frame // FRAMES_PER_CHUNK, text) for frame, text in sorted(orders.items())
        ]
        width, height = world.size
        spec = WorldSpec(
            model=model,
            prompt=prompt,
            perspective=perspective,
            seed=seed,
            width=width,
            height=height,
            first_frames=recorded.to_bytes() if recorded else file,
        )
        log = SessionLog(spec, controls, spoken)
        save.write_text(to_json(log), encoding="utf-8")
    chunks = []
    with Progress() as bar:
        for first in bar.track(range(0, len(script), FRAMES_PER_CHUNK), description="playing"):
            for frame in range(first, first + FRAMES_PER_CHUNK):
                if frame in orders:
                    world.instruct(orders[frame])
            held = script[first : first + FRAMES_PER_CHUNK]
            held += [held[-1]] * (FRAMES_PER_CHUNK - len(held))
            rows = [Control(frame).operations()[0] for frame in held]
            chunks.append(world.step_operations(np.stack(rows)))
    video = np.concatenate(chunks)[: len(script)]
    write_by_suffix(output, video)
    print(f"{output}: {len(video)} frames of {video.shape[2]}x{video.shape[1]}")


@app.command()
def info(model: Model = "nano") -> None:
    """Shows a checkpoint's sizes, training, data and checksums.

    Example: gamegen info --model nano
    """
    from gamegen.models.checkpoint import count_weights, read_card, read_settings

    table = Table("", "", title=model)
    for part, count in count_weights(model).items():
        table.add_row(part, f"{count:,} weights")
    settings = read_settings(model)
    if "width" in settings:
        table.add_row("picture", f"{settings['width']}x{settings['height']}")
    if "sampling" in settings:
        table.add_row(
            "sampling", ", ".join(f"{name} {value}" for name, value in settings["sampling"].items())
        )
    for name, value in read_card(model).items():
        if name == "stages":
            value = "\n".join(
                f"{stage['stage']}: {stage['steps']:,} steps, {stage['wall_time_s'] / 60:.0f} min, {stage['machine']}"
                for stage in value
            )
        if name != "training":
            table.add_row(name, str(value))
    Console().print(table)


def _add_program(command: str, program: Program) -> None:
    *groups, name = command.split()
    group = {"bench": bench, "chaos": chaos}[groups[0]] if groups else app

    @group.command(name, context_settings=_FORWARD, help=f"{program.help} (gamegen {command} --help).")
    def run(context: typer.Context) -> None:
        _run_module(program.module, command, context.args)


for _command, _program in PROGRAMS.items():
    _add_program(_command, _program)


@app.command(context_settings=_FORWARD)
def evaluate(
    context: typer.Context, ray: Annotated[bool, typer.Option("--ray", help="as a Ray job")] = False
) -> None:
    """Plays many worlds and measures them beside real clips; with --ray as a Ray job (gamegen evaluate --help)."""
    _run_module(EVALUATION_JOB if ray else EVALUATION, "evaluate", context.args)


def _parse_instruction(text: str, num_frames: int) -> tuple[int, str]:
    frame, colon, words = text.partition(":")
    if not (colon and frame.strip().isdigit() and words.strip()):
        raise ValueError(
            f'cannot read the instruction {text!r}: write FRAME:TEXT, for example "24:make it rain"'
        )
    if int(frame) >= num_frames:
        raise ValueError(f"the instruction at frame {frame} comes after the last of {num_frames} frames")
    return int(frame), words.strip()


def _run_module(module: str, name: str, arguments: list[str]) -> None:
    """Runs a module as `python -m` does, in this process."""
    sys.argv = [f"gamegen {name}", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    """Entry point."""
    run_command(app)


if __name__ == "__main__":
    main()
