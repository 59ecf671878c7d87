"""Curated shards: Parquet files of a few clips each, video bytes in the row, laid out by split and bucket.

    OUTPUT/split=train/bucket=160x96x480/part-3f2a....parquet
    OUTPUT/rejected.parquet

`split` and `bucket` are columns of the files too, so a row read alone still knows where it belongs. Read a
whole folder with `pyarrow.dataset.dataset(folder, partitioning="hive")` or `ray.data.read_parquet`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gamegen.files import write_atomically
from gamegen.footage import clips

SCHEMA = pa.schema(
    [
        *clips.SCHEMA,
        ("video", pa.large_binary()),
        ("bucket", pa.string()),
        ("split", pa.string()),
        ("source_sha256", pa.string()),
    ]
)
"""A clip's columns plus its re-encoded video. `width`, `height`, `sha256` and `size_bytes` describe `video`;
`source_sha256` is the recording's."""
REJECTED_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("source_sha256", pa.string()),
        ("path", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True)
class RejectedClip:
    """A clip that was turned away: `reason` is one of a few words, `detail` says what was measured."""

    clip_id: str
    source_sha256: str
    path: str
    reason: str
    detail: str


def write_part(folder: Path, split: str, bucket: str, table: pa.Table) -> Path:
    """Writes one shard in one step, named after its clip ids: a repeated task replaces its own file."""
    name = hashlib.sha256("\n".join(table["clip_id"].to_pylist()).encode()).hexdigest()[:16]
    path = folder / f"split={split}" / f"bucket={bucket}" / f"part-{name}.parquet"
    write_table(table, path)
    return path


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a Parquet file, compressed and in small row groups; no reader meets half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as partial:
        pq.write_table(table, partial, compression="zstd", row_group_size=4)


def part_files(folder: Path) -> list[Path]:
    """Every shard under a folder, in a fixed order; none if the folder does not exist yet."""
    return sorted(folder.glob("split=*/bucket=*/part-*.parquet"))


def read_rows(
    folder: Path, columns: Sequence[str] | None = None, splits: Iterable[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The shards' rows as plain dicts, a few at a time, optionally of some columns and splits only."""
    wanted = None if splits is None else {f"split={split}" for split in splits}
    for path in part_files(folder):
        if wanted is None or path.parent.parent.name in wanted:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=4, columns=columns):
                yield from batch.to_pylist()


def read_rejected(folder: Path) -> list[RejectedClip]:
    """The clips turned away so far, in order of `clip_id`."""
    path = folder / clips.REJECTED_FILE
    if not path.exists():
        return []
    return [RejectedClip(**row) for row in pq.read_table(path, schema=REJECTED_SCHEMA).to_pylist()]


def write_rejected(folder: Path, rejected: Iterable[RejectedClip]) -> None:
    """Replaces the list of rejects."""
    rows = [vars(clip) for clip in sorted(rejected, key=lambda clip: clip.clip_id)]
    write_table(pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA), folder / clips.REJECTED_FILE)
