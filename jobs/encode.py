"""Encodes curated shards into latents and text states on Ray Data.

    python -m jobs.encode curated/ encoded/ --vae runs/vae

Run it again when there are new shards: what this VAE has encoded already is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import ray
import typer
from rich.console import Console
from rich.table import Table

from gamegen.curation import encode
from gamegen.models.checkpoint import load_checkpoint, resolve
from gamegen.models.digests import vae_sha256
from gamegen.process.command import run_command
from jobs.cluster import connect, progress_bar


class _EncodeParts:
    """An actor that encodes shards and keeps its models between them."""

    def __init__(self, vae: str, video_prompts: tuple[str, ...]) -> None:
        self._encoder = encode.Encoder(vae, video_prompts=video_prompts)

    def __call__(self, batch: pa.Table) -> pa.Table:
        parts = [
            self._encoder.encode_part(Path(row["part"]), Path(row["target"])) for row in batch.to_pylist()
        ]
        return pa.Table.from_pylist([vars(part) for part in parts])


def run(
    curated: Path,
    output: Path,
    vae: str,
    workers: int | None = None,
    video_prompts: Sequence[str] = (),
) -> Table:
    """Encodes new shards under `curated` into `output`; starts Ray if need be. Returns the summary to print.

    Raises FileNotFoundError without curated shards, CheckpointError without a sound checkpoint and ValueError for an
    unknown kind of video prompt.
    """
    kinds = encode.known_kinds(video_prompts)
    curated, output = curated.resolve(), output.resolve()
    checkpoint = str(resolve(vae).resolve())
    started = time.monotonic()
    steps = encode.plan(curated, output, vae_sha256(load_checkpoint(checkpoint, "cpu").model), kinds)
    rows = [{"part": str(part), "target": str(target)} for part, target in steps]
    num_clips, seconds = 0, 0.0
    if rows:
        connect()
        results = ray.data.from_items(rows).map_batches(
            _EncodeParts,
            fn_constructor_args=(checkpoint, kinds),
            batch_size=1,
            batch_format="pyarrow",
            **_resources(len(rows), workers),
        )
        with progress_bar() as bar:
            task = bar.add_task("encoding shards", total=len(rows))
            for row in results.iter_rows():
                num_clips += row["num_clips"]
                seconds += row["seconds"]
                bar.advance(task)
    statistics = encode.write_statistics(output)
    table = Table("", "", title=f"Encoded into {output}")
    table.add_row("new clips", str(num_clips))
    table.add_row("new minutes of video", f"{seconds / 60:.1f}")
    table.add_row(
        "latent std, smallest and largest channel", "{:.3f}, {:.3f}".format(*_range(statistics["std"]))
    )
    table.add_row("wall time", f"{time.monotonic() - started:.1f} s")
    return table


def _resources(num_parts: int, workers: int | None) -> dict[str, Any]:
    """Resources of the workers: one for each GPU, else one for each core but one, which Ray Data's own tasks need."""
    available = ray.available_resources()
    num_gpus = int(available.get("GPU", 0))
    free = num_gpus or max(1, int(available.get("CPU", 1)) - 1)
    concurrency = min(num_parts, workers or free)
    return (
        {"concurrency": concurrency, "num_gpus": 1}
        if num_gpus
        else {"concurrency": concurrency, "num_cpus": 1}
    )


def _range(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def main(
    curated: Annotated[Path, typer.Argument(metavar="CURATED_DIR", help="Folder written by the curate job.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="Folder for the encoded shards.")],
    vae: Annotated[str, typer.Option(help="Checkpoint folder or shipped model to encode with.")],
    workers: Annotated[
        int | None, typer.Option(help="Workers at once; all GPUs or free cores if unset.")
    ] = None,
    video_prompt: Annotated[
        list[str] | None, typer.Option(help="Also encode this kind: canny or motion. May be given twice.")
    ] = None,
) -> None:
    """Store latents and text states of curated clips.

    Example: gamegen encode curated/ encoded/ --vae runs/vae
    """
    Console().print(run(curated, output, vae, workers, video_prompt or ()))


if __name__ == "__main__":
    run_command(main)
