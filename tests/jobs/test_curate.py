from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest

from gamegen.curation import shards
from gamegen.curation.curate import CurationConfig, plan
from gamegen.media.mp4 import read_mp4
from jobs import curate
from tests.footage_samples import make_clip, panning_frames, write_footage

CONFIG = curate.with_sizes(CurationConfig(clips_per_shard=3), ["80x48"])


def record_everything(folder: Path) -> None:
    """Six good clips of three worlds, and one bad clip of every kind."""
    moving = panning_frames()
    clips = [make_clip(folder, f"good-{i}", panning_frames(seed=i), world_seed=i % 3) for i in range(6)]
    clips.append(make_clip(folder, "bad-black", np.zeros_like(moving)))
    clips.append(make_clip(folder, "bad-frozen", np.repeat(moving[:1], 48, axis=0)))
    clips.append(make_clip(folder, "bad-short", moving[:40]))
    clips.append(make_clip(folder, "bad-sum", moving, sha256="0" * 64))
    clips.append(make_clip(folder, "bad-count", moving, num_frames=52))
    clips.append(make_clip(folder, "bad-missing", moving, path="elsewhere.mp4"))
    write_footage(folder, clips)


@pytest.fixture(scope="module")
def curated(ray_cluster, tmp_path_factory) -> tuple[Path, Path]:
    source, output = tmp_path_factory.mktemp("footage"), tmp_path_factory.mktemp("curated")
    record_everything(source)
    curate.run(source, output, CONFIG)
    return source, output


def test_good_clips_become_shards_and_bad_ones_keep_their_reason(curated) -> None:
    _, output = curated
    rows = list(shards.read_rows(output))
    assert sorted(row["clip_id"] for row in rows) == [f"good-{i}" for i in range(6)]
    reasons = {clip.clip_id: clip.reason for clip in shards.read_rejected(output)}
    assert reasons == {
        "bad-black": "black",
        "bad-frozen": "frozen",
        "bad-short": "short",
        "bad-sum": "broken",
        "bad-count": "broken",
        "bad-missing": "broken",
    }
    assert (output / "contact_sheet.png").stat().st_size > 1000


def test_a_row_holds_the_resized_video_and_every_clip_column(curated) -> None:
    _, output = curated
    row = next(shards.read_rows(output))
    frames = read_mp4(row["video"])
    assert frames.shape == (48, 48, 80, 3)
    assert (row["width"], row["height"], row["bucket"]) == (80, 48, "80x48x48")
    assert set(row) == set(shards.SCHEMA.names)
    assert len(row["keys"]) == row["num_frames"] == 48


def test_no_world_is_in_two_splits_and_validation_is_not_empty(curated) -> None:
    _, output = curated
    found = {(row["world_seed"], row["split"]) for row in shards.read_rows(output, ["world_seed", "split"])}
    assert len(found) == 3
    assert {split for _, split in found} == {"train", "validation", "test"}


def test_the_folder_reads_as_one_partitioned_table(curated) -> None:
    _, output = curated
    table = pyarrow.dataset.dataset(sorted(map(str, shards.part_files(output)))).to_table(
        ["clip_id", "split"]
    )
    assert table.num_rows == 6


def test_a_second_run_works_on_new_clips_only(curated) -> None:
    source, output = curated
    before = {path: path.stat().st_mtime_ns for path in shards.part_files(output)}
    assert plan(source, output, CONFIG) == []
    write_footage(source, [make_clip(source, "later", panning_frames(seed=9), world_seed=0)], "more.parquet")
    curate.run(source, output, CONFIG)
    after = {path: path.stat().st_mtime_ns for path in shards.part_files(output)}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    splits = {row["world_seed"]: set() for row in shards.read_rows(output, ["world_seed"])}
    for row in shards.read_rows(output, ["world_seed", "split"]):
        splits[row["world_seed"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_wrong_input_says_what_to_do(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="record footage first"):
        plan(tmp_path, tmp_path / "out", CONFIG)
    with pytest.raises(ValueError, match="write WIDTHxHEIGHT"):
        curate.with_sizes(CurationConfig(), ["big"])
    with pytest.raises(ValueError, match="multiples of 16"):
        curate.with_sizes(CurationConfig(), ["100x100"])
