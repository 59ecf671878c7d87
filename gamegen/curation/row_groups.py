"""Row groups of shards, whether Parquet (`gamegen/curation/shards.py`) or packed (`gamegen/curation/packed.py`).

A packed shard has the row groups of the Parquet shards it was made of, so training plans the same windows on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gamegen.curation.packed import PackedShard

PARQUET, PACKED = ".parquet", ".safetensors"


def shard_files(folder: Path, split: str) -> list[Path]:
    """The shards of a split, in a fixed order; none if there is no such split."""
    files = (folder / f"split={split}").glob("bucket=*/*")
    return sorted(file for file in files if file.suffix in (PARQUET, PACKED) and file.name[0] != ".")


def column_by_group(file: Path, name: str) -> list[list[Any]]:
    """The values of one column, a list for each row group."""
    if file.suffix == PACKED:
        return [[row[name] for row in rows] for rows in PackedShard(file).records()]
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    groups = range(parquet.num_row_groups)
    return [parquet.read_row_group(group, [name])[name].to_pylist() for group in groups]


def read_rows_of(file: Path | str, group: int, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Some rows of a row group as plain dicts, in the order of `rows`."""
    file = Path(file)
    if file.suffix == PACKED:
        return PackedShard(file).read(group, rows)
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file).read_row_group(group)
    return [table.slice(row, 1).to_pylist()[0] for row in rows]
