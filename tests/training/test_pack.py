"""Packs: the rows of shards in small files, and the same windows from both."""

import itertools

import numpy as np
import pytest
import torch

from gamegen.curation.packed import PieceWriter
from gamegen.curation.row_groups import column_by_group, read_rows_of, shard_files
from gamegen.media import mp4
from gamegen.models.model import ModelConfig
from gamegen.training.feed import Feed
from gamegen.training.memory_feed import windows_in_memory
from gamegen.training.pack import pack_shards
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.window_plan import WindowPlan, index_clips
from tests.training.samples import encoded_folder, panning_folder, stage


def rows_of(folder):
    return [
        row
        for file in shard_files(folder, "train")
        for group, ids in enumerate(column_by_group(file, "clip_id"))
        for row in read_rows_of(file, group, range(len(ids)))
    ]


def batches(config, data, count=5, source=None):
    windows = config.windows(ModelConfig.tiny())
    plan = WindowPlan(config, index_clips(data, "train", windows.length_column))
    feed = Feed(plan, windows, source=source and source(windows))
    return [
        batch
        for step in itertools.islice(feed.batches(0, feed.start()), count)
        for _, batch in step.micro_batches
    ]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    encoded_folder(folder / "shards", 7)
    # Room for one row group a piece.
    pack_shards(folder / "shards", folder / "packed", max_bytes=2_040_000)
    return folder


def test_a_pack_has_the_rows_of_its_shards_in_pieces_of_a_limited_size(encoded):
    assert rows_of(encoded / "packed") == rows_of(encoded / "shards")
    pieces = shard_files(encoded / "packed", "train")
    assert len(pieces) > len(shard_files(encoded / "shards", "train")) - 1
    assert all(piece.stat().st_size < 2_040_000 for piece in pieces)


@pytest.mark.parametrize("source", [None, windows_in_memory])
def test_windows_of_latents_are_those_of_the_shards_to_the_bit(encoded, source):
    config = stage("foundation", pool_clips=2)
    expected = batches(config, encoded / "shards")
    for batch, other in zip(batches(config, encoded / "packed", source=source), expected, strict=True):
        assert torch.equal(batch.latents, other.latents) and torch.equal(batch.previous, other.previous)
        assert torch.equal(batch.prompt.tokens, other.prompt.tokens)
        assert torch.equal(batch.controls.operations, other.controls.operations)


def test_windows_of_frames_are_those_of_the_shards_and_nearly_so_without_pyav(tmp_path, monkeypatch):
    pack_shards(panning_folder(tmp_path / "shards"), tmp_path / "packed")
    config = stage("streaming", buckets=(TrainingBucket(size_of(tmp_path / "shards"), 8),))
    expected = batches(config, tmp_path / "shards")
    for batch, other in zip(batches(config, tmp_path / "packed"), expected, strict=True):
        assert torch.equal(batch.frames, other.frames) and torch.equal(batch.operations, other.operations)
    monkeypatch.setattr(mp4, "av", None)
    for batch, other in zip(batches(config, tmp_path / "packed"), expected, strict=True):
        assert (batch.frames - other.frames).abs().mean() < 4 / 255
        assert torch.equal(batch.operations, other.operations)


def size_of(folder):
    width, height, _ = shard_files(folder, "train")[0].parent.name.removeprefix("bucket=").split("x")
    return f"{width}x{height}"


def test_equal_bytes_are_kept_once_and_a_group_that_is_too_large_is_refused(tmp_path):
    text = np.random.default_rng(0).bytes(50_000)
    with PieceWriter(tmp_path / "part") as writer:
        writer.write([{"clip_id": str(i), "text": text} for i in range(20)])
    (file,) = writer.files
    assert file.stat().st_size < 60_000
    assert read_rows_of(file, 0, [3, 1]) == [{"clip_id": "3", "text": text}, {"clip_id": "1", "text": text}]
    with (
        pytest.raises(ValueError, match="does not fit a piece"),
        PieceWriter(tmp_path / "b", 2_010_000) as writer,
    ):
        writer.write([{"text": text}])
