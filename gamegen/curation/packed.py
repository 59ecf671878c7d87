"""Packed shards: rows of Parquet shards in safetensors files of a limited size, for machines that read no Parquet.

    OUTPUT/split=train/bucket=160x96x480/part-3f2a....000.safetensors

The tensor `group-N` is JSON: the rows of a row group. Bytes in a row are `{"bytes": NAME}` there, with `"packed": true`
where they are compressed by zlib, and the content of the tensor of that name. Equal bytes, such as those of a text that
many clips share, are kept once.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from gamegen.files import write_atomically

MAX_PIECE_BYTES = 60_000_000
"""No file of a pack is larger."""
_HEADER_BYTES = 2_000_000
"""Room for a file's table of contents."""
_PAYS = 0.9
"""Size of compressed bytes, relative to plain ones, up to which they are kept compressed."""

Row = dict[str, Any]


class PackedShard:
    """A reader of one packed shard."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def records(self) -> list[list[Row]]:
        """The rows of every row group, with references in the place of bytes."""
        with safe_open(self.file, "np") as tensors:
            count = sum(name.startswith("group-") for name in tensors.keys())  # noqa: SIM118  (not a mapping)
            return [_group(tensors, group) for group in range(count)]

    def read(self, group: int, rows: Sequence[int]) -> list[Row]:
        """Some rows of a row group, as they were packed."""
        with safe_open(self.file, "np") as tensors:
            records = _group(tensors, group)
            return [_restored(records[row], tensors) for row in rows]


class PieceWriter:
    """Writes row groups to packed shards, a new one whenever the size limit would be passed.

        with PieceWriter(folder / "part-3f2a") as writer:
            writer.write(rows)

    The files are named `STEM.000.safetensors` and so on. Equal content gives equal files.
    """

    def __init__(self, stem: Path, max_bytes: int = MAX_PIECE_BYTES) -> None:
        self._stem = stem
        self._max_bytes = max_bytes
        self._tensors: dict[str, bytes] = {}
        self._num_groups = 0
        self.files: list[Path] = []

    def __enter__(self) -> PieceWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()

    def write(self, rows: Iterable[Row]) -> None:
        """Adds a row group; raises ValueError if it alone is larger than a file may be."""
        tensors: dict[str, bytes] = {}
        records = [_referring(row, tensors) for row in rows]
        record = json.dumps(records).encode()
        size = len(record) + sum(len(data) for name, data in tensors.items() if name not in self._tensors)
        limit = self._max_bytes - _HEADER_BYTES
        if self._num_groups and self._size() + size > limit:
            self._flush()
        own_size = len(record) + sum(map(len, tensors.values()))
        if own_size > limit:
            raise ValueError(
                f"{self._stem.name}: a row group of {own_size:,} bytes does not fit a piece of {limit:,} bytes: "
                "curate shorter clips"
            )
        self._tensors |= tensors | {f"group-{self._num_groups}": record}
        self._num_groups += 1

    def _size(self) -> int:
        return sum(map(len, self._tensors.values()))

    def _flush(self) -> None:
        if not self._num_groups:
            return
        file = self._stem.with_name(f"{self._stem.name}.{len(self.files):03d}.safetensors")
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as partial:
            save_file({name: np.frombuffer(data, np.uint8) for name, data in self._tensors.items()}, partial)
        self.files.append(file)
        self._tensors, self._num_groups = {}, 0


def _referring(value: Any, tensors: dict[str, bytes]) -> Any:
    """A value of a row as JSON holds it; its bytes are added to `tensors`."""
    if isinstance(value, bytes):
        packed = zlib.compress(value)
        is_smaller = len(packed) < _PAYS * len(value)
        kept = packed if is_smaller else value
        name = hashlib.sha256(kept).hexdigest()[:32]
        tensors[name] = kept
        return {"bytes": name} | ({"packed": True} if is_smaller else {})
    if isinstance(value, dict):
        return {key: _referring(part, tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_referring(part, tensors) for part in value]
    return value


def _restored(value: Any, tensors: Any) -> Any:
    if isinstance(value, dict) and "bytes" in value:
        data = tensors.get_tensor(value["bytes"]).tobytes()
        return zlib.decompress(data) if value.get("packed") else data
    if isinstance(value, dict):
        return {key: _restored(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [_restored(part, tensors) for part in value]
    return value


def _group(tensors: Any, group: int) -> list[Row]:
    rows: list[Row] = json.loads(tensors.get_tensor(f"group-{group}").tobytes())
    return rows
