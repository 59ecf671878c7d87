"""The clip table keeps every column through Parquet."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest

from gamegen.footage.clips import SCHEMA, read_table, write_table
from tests.footage_samples import make_clip, panning_frames


def test_a_table_reads_back_as_written(tmp_path: Path) -> None:
    clips = [make_clip(tmp_path, f"clip-{i}", panning_frames(12, seed=i), yaw_deg=[0.5] * 12) for i in (1, 0)]
    write_table(clips, tmp_path / "clips.parquet")
    assert pyarrow.parquet.read_schema(tmp_path / "clips.parquet").equals(SCHEMA)
    back = read_table(tmp_path / "clips.parquet")
    assert [clip.clip_id for clip in back] == ["clip-0", "clip-1"]
    assert back[1].instructions == clips[0].instructions
    assert back[1].keys == clips[0].keys
    assert back[1].caption == clips[0].caption
    assert back[1].yaw_deg == clips[0].yaw_deg


def test_a_folder_of_row_files_reads_as_one_table(tmp_path: Path) -> None:
    for i in range(3):
        clip = make_clip(tmp_path, f"clip-{i}", panning_frames(12, seed=i))
        write_table([clip], tmp_path / f"clip-{i}.parquet")
    (tmp_path / "clip-9.parquet.partial").write_bytes(b"half a row")
    assert [clip.clip_id for clip in read_table(tmp_path)] == ["clip-0", "clip-1", "clip-2"]


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="record footage first"):
        read_table(tmp_path)
