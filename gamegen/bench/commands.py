"""`gamegen bench world|clip|memory|enlarging|vae|motion|layers|train`: speed and memory of drawing and of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

bench = typer.Typer(
    no_args_is_help=True, help="Measures how fast this machine generates, decodes and trains."
)

Model = Annotated[
    str,
    typer.Argument(
        help="a model, a size of gamegen/configs/models, or either with changes: nano:num_steps=4"
    ),
]
Compare = Annotated[
    list[str] | None, typer.Option("--compare", help="another to measure in turns with it; may be repeated")
]
Rounds = Annotated[int, typer.Option(help="rounds to measure, after two of warm-up")]
Json = Annotated[Path | None, typer.Option("--json", help="file for the same figures")]


@bench.command()
def world(
    model: Model = "nano", compare: Compare = None, rounds: Rounds = 48, json_file: Json = None
) -> None:
    """Times chunks of play (four frames each): denoising, committing, decoding, JPEG.

    Example: gamegen bench world nano --compare nano:precision=int8 --compare nano:size=256x144
    """
    from gamegen.bench.workloads import WorldWorkload

    encoder = _text_encoder()
    _run("A chunk of play", [model, *(compare or [])], lambda v: WorldWorkload(v, encoder), rounds, json_file)


@bench.command()
def clip(
    model: Model = "nano",
    compare: Compare = None,
    frames: Annotated[int, typer.Option(min=1, help="at 24 a second")] = 102,
    rounds: Rounds = 3,
    json_file: Json = None,
) -> None:
    """Times whole clips: text encoding, denoising, decoding with the large decoder.

    Example: gamegen bench clip nano --compare "nano:solver=euler,num_steps=50,first_steps=50,guidance_scale=2"
    """
    from gamegen.bench.workloads import ClipWorkload

    encoder = _text_encoder()
    _run(
        f"A clip of {frames} frames",
        [model, *(compare or [])],
        lambda v: ClipWorkload(v, encoder, frames),
        rounds,
        json_file,
    )


@bench.command()
def memory(
    model: Model = "nano",
    seconds: Annotated[list[float] | None, typer.Option(help="of a clip; may be repeated")] = None,
) -> None:
    """Prints the peak memory of drawing a clip, of 5 and of 60 seconds unless others are named.

    Example: gamegen bench memory nano --seconds 5 --seconds 60
    """
    from gamegen.bench.clip_memory import clip_memory
    from gamegen.constants import FPS

    lengths = [max(1, round(length * FPS)) for length in seconds or (5.0, 60.0)]
    first = None
    for num_frames in lengths:
        found = clip_memory(model, num_frames)
        first = first or found
        more = found.peak_bytes / first.peak_bytes - 1
        print(found if found is first else f"{found}, {more:+.1%}")


@bench.command()
def enlarging(
    clips: Annotated[Path, typer.Argument(help="folder of MP4s")],
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT whose time is measured")] = "1280x720",
) -> None:
    """Compares upscaling and frame interpolation: similarity to real frames, and milliseconds.

    Frames are shrunk to half and enlarged again; every second frame is left out and made again.
    Example: gamegen bench enlarging data/held-out
    """
    from gamegen.bench.enlarging import comparison
    from gamegen.media.size import Size

    Console().print(comparison(sorted(clips.glob("*.mp4")), Size.parse(size)))


@bench.command()
def vae(model: Model = "nano", compare: Compare = None, rounds: Rounds = 24, json_file: Json = None) -> None:
    """Times the autoencoder over chunks of four frames.

    Example: gamegen bench vae nano:size=1280x720
    """
    from gamegen.bench.workloads import AutoencoderWorkload

    _run("A chunk through the autoencoder", [model, *(compare or [])], AutoencoderWorkload, rounds, json_file)


@bench.command()
def motion(
    model: Model = "runs/motion", compare: Compare = None, rounds: Rounds = 24, json_file: Json = None
) -> None:
    """Times the motion network over chunks of four frames, and the warp of their pixels.

    Example: OMP_NUM_THREADS=1 gamegen bench motion runs/motion --compare runs/motion:size=256x144
    """
    from gamegen.bench.workloads import MotionWorkload

    _run("The motion of a chunk", [model, *(compare or [])], MotionWorkload, rounds, json_file)


@bench.command()
def layers(
    model: Annotated[
        str, typer.Argument(help="a model, or one with changes: runs/world:size=256x144")
    ] = "nano",
    precision: Annotated[str, typer.Option(help="int8, or float8 on a GPU")] = "int8",
) -> None:
    """Plays a world and prints the quantisation error of each layer.

    Example: gamegen bench layers nano --precision int8
    """
    from typing import cast

    from gamegen.bench.layers import layer_table, played_layer_errors
    from gamegen.engine.variants import Variant
    from gamegen.models.precision import Precision

    if precision not in ("int8", "float8"):
        raise ValueError(f"--precision {precision}: use int8 or float8")
    chosen = cast(Precision, precision)
    Console().print(layer_table(played_layer_errors(Variant.parse(model), chosen, _text_encoder()), chosen))


@bench.command()
def train(
    model: Annotated[str, typer.Option(help="nano, base, gamegen-x, xl, or a YAML file")] = "nano",
    frames: Annotated[int, typer.Option(help="video frames a window")] = 32,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, by default the model's own")] = None,
    batch: Annotated[int, typer.Option(help="windows a step")] = 2,
    steps: Annotated[int, typer.Option(help="steps to measure, after two of warm-up")] = 10,
) -> None:
    """Times training steps of a model size on synthetic windows, on a GPU if there is one.

    Example: gamegen bench train --model base --frames 64 --batch 8 --steps 50
    """
    from gamegen.bench.training import BenchConfig, bench_table, bench_training
    from gamegen.media.size import Size

    config = BenchConfig(
        model=model,
        num_frames=frames,
        size=Size.parse(size) if size else None,
        batch=batch,
        steps=steps,
    )
    Console().print(bench_table(config, bench_training(config)))


def _text_encoder():
    from gamegen.models.text import load_text_encoder

    return load_text_encoder("minilm")


def _run(title: str, names: Sequence[str], build: Callable, rounds: int, json_file: Path | None) -> None:
    from gamegen.bench.paired import WARMUP_ROUNDS, measure
    from gamegen.bench.tables import report
    from gamegen.device import keep_freed_memory
    from gamegen.engine.variants import Variant

    keep_freed_memory()
    variants = [Variant.parse(name) for name in names]
    if len({variant.text for variant in variants}) < len(variants):
        raise ValueError(f"{', '.join(names)}: give each variant once")
    with Progress(transient=True) as bar:
        task = bar.add_task("measuring", total=(WARMUP_ROUNDS + rounds) * len(variants))
        workloads = {variant.text: build(variant) for variant in variants}
        results = measure(workloads, rounds, lambda: bar.advance(task))
    report(title, results, json_file)
