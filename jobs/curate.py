"""Curates recorded footage into shards on Ray Data.

    python -m jobs.curate footage/ curated/ --size 160x96

Run it again while footage is still being recorded: only new clips are worked on.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import ray
import typer
from rich.console import Console
from rich.table import Table

from gamegen.config import load_yaml
from gamegen.curation import curate, shards
from gamegen.curation.contact_sheet import write_contact_sheet
from gamegen.curation.curate import CurationConfig, ShardPlan
from gamegen.curation.shards import RejectedClip
from gamegen.media.size import Size
from gamegen.process.command import run_command
from jobs.cluster import connect, progress_bar

_RESULT_SCHEMA = pa.schema(
    [
        ("num_kept", pa.int64()),
        ("seconds_kept", pa.float64()),
        ("rejected", pa.list_(pa.struct(list(shards.REJECTED_SCHEMA)))),
    ]
)


def run(source: Path, output: Path, config: CurationConfig) -> Table:
    """Curates new clips under `source` into `output`; starts Ray if need be. Returns the summary to print.

    Raises FileNotFoundError if `source` holds no clip table.
    """
    source, output = source.resolve(), output.resolve()
    started = time.monotonic()
    steps = curate.plan(source, output, config)
    num_kept, seconds_kept = 0, 0.0
    rejected = shards.read_rejected(output)
    new_rejects: list[RejectedClip] = []
    if steps:
        connect()
        results = ray.data.from_items([dataclasses.asdict(step) for step in steps]).map_batches(
            lambda batch: _curate_batch(batch, source, output, config), batch_size=1, batch_format="pyarrow"
        )
        with progress_bar() as bar:
            task = bar.add_task("curating clips", total=sum(len(step.clip_ids) for step in steps))
            for row in results.iter_rows():
                num_kept += row["num_kept"]
                seconds_kept += row["seconds_kept"]
                new_rejects += [RejectedClip(**reject) for reject in row["rejected"]]
                # Written as results arrive: an interrupted run does not judge the same bad clips again.
                shards.write_rejected(output, [*rejected, *new_rejects])
                bar.advance(task, row["num_kept"] + len(row["rejected"]))
    num_drawn = write_contact_sheet(output, output / "contact_sheet.png") if num_kept else 0
    wall_s = time.monotonic() - started
    return _summary(output, num_kept, seconds_kept, new_rejects, num_drawn, wall_s)


def _curate_batch(batch: pa.Table, source: Path, output: Path, config: CurationConfig) -> pa.Table:
    results = [curate.curate_shard(ShardPlan(**row), source, output, config) for row in batch.to_pylist()]
    return pa.Table.from_pylist([dataclasses.asdict(result) for result in results], schema=_RESULT_SCHEMA)


def _summary(
    output: Path,
    num_kept: int,
    seconds_kept: float,
    new_rejects: list[RejectedClip],
    num_drawn: int,
    wall_s: float,
) -> Table:
    table = Table("", "clips", "minutes", title=f"Curated into {output}")
    table.add_row("new, kept", str(num_kept), f"{seconds_kept / 60:.1f}")
    for reason, count in sorted(Counter(clip.reason for clip in new_rejects).items()):
        table.add_row(f"new, rejected: {reason}", str(count), "")
    table.add_section()
    totals: dict[tuple[str, str], list[float]] = {}
    worlds: dict[str, set] = {}
    for row in shards.read_rows(output, ["split", "bucket", "num_frames", "fps", "game", "world_seed"]):
        totals.setdefault((row["split"], row["bucket"]), []).append(row["num_frames"] / row["fps"] / 60)
        worlds.setdefault(row["split"], set()).add((row["game"], row["world_seed"]))
    for (split, bucket), minutes in sorted(totals.items()):
        label = f"all, {split} ({len(worlds[split])} worlds), {bucket}"
        table.add_row(label, str(len(minutes)), f"{sum(minutes):.1f}")
    table.add_row("all, rejected", str(len(shards.read_rejected(output))), "")
    table.caption = f"{wall_s:.1f} s" + (f"; contact_sheet.png shows {num_drawn} clips" if num_drawn else "")
    return table


def main(
    source: Annotated[Path, typer.Argument(metavar="INPUT_DIR", help="Folder with MP4s and clip tables.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="Folder for the shards.")],
    size: Annotated[list[str] | None, typer.Option(help="Bucket size WIDTHxHEIGHT; may be repeated.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of curation settings.")] = None,
) -> None:
    """Decode, judge, resize and shard recorded clips.

    Example: gamegen curate footage/ curated/ --size 160x96
    """
    settings = with_sizes(load_yaml(CurationConfig, config) if config else CurationConfig(), size or [])
    Console().print(run(source, output, settings))


def with_sizes(config: CurationConfig, sizes: list[str]) -> CurationConfig:
    """`config` with its bucket sizes replaced by `WIDTHxHEIGHT` strings, or unchanged without any.

    Raises ValueError for a size that is not two multiples of 16.
    """
    if not sizes:
        return config
    return dataclasses.replace(
        config, buckets=dataclasses.replace(config.buckets, sizes=tuple(Size.parse(size) for size in sizes))
    )


if __name__ == "__main__":
    run_command(main)
