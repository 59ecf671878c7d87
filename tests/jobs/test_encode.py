import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gamegen.controls import OPERATION_SIZE
from gamegen.curation import encode, shards
from gamegen.curation.curate import CurationConfig
from gamegen.curation.encoded_clip import EncodedClip
from gamegen.models.checkpoint import CheckpointError, save_random
from gamegen.models.model import ModelConfig
from jobs import curate
from jobs.encode import run
from tests.footage_samples import make_clip, panning_frames, write_footage

CONFIG = curate.with_sizes(CurationConfig(clips_per_shard=2), ["80x48"])


@pytest.fixture(scope="module")
def folders(ray_cluster, tmp_path_factory) -> tuple[Path, Path, Path, Path]:
    """Footage, curated shards, encoded shards and the checkpoint that encoded them."""
    root = tmp_path_factory.mktemp("encode")
    clips = [make_clip(root / "footage", f"clip-{i}", panning_frames(seed=i), world_seed=i) for i in range(4)]
    write_footage(root / "footage", clips)
    curate.run(root / "footage", root / "curated", CONFIG)
    save_random(root / "vae", ModelConfig.tiny())
    run(root / "curated", root / "encoded", str(root / "vae"))
    return root / "footage", root / "curated", root / "encoded", root / "vae"


def test_every_clip_is_encoded_into_its_split_and_bucket(folders) -> None:
    _, curated, encoded, _ = folders
    parts = [path.relative_to(curated) for path in shards.part_files(curated)]
    assert [path.relative_to(encoded) for path in shards.part_files(encoded)] == parts
    rows = list(shards.read_rows(encoded))
    assert {row["clip_id"] for row in rows} == {f"clip-{i}" for i in range(4)}


def test_a_row_reads_back_as_tensors(folders) -> None:
    _, _, encoded, _ = folders
    clip = EncodedClip.from_row(next(shards.read_rows(encoded)))
    assert clip.latents.shape[0] == clip.num_chunks == 12
    assert clip.latents.shape[2:] == (6, 10)
    assert clip.operations.shape == (12, 4, OPERATION_SIZE)
    assert clip.weather == ["clear"] * 6 + ["rain"] * 6
    # Frame 0 shows no operation; frame 1 that of row 0 (no key), frame 2 that of row 1 (w).
    assert clip.operations[0, :, 0].tolist() == [0, 0, 1, 0]
    assert clip.instructions[0].chunk == 6
    assert clip.segments[0].prompts[0].tokens.shape[1] == 384


def test_statistics_are_those_of_the_train_latents(folders) -> None:
    _, _, encoded, _ = folders
    latents = np.concatenate(
        [
            EncodedClip.from_row(row).latents.double().numpy()
            for row in shards.read_rows(encoded, splits=["train"])
        ]
    )
    statistics = encode.write_statistics(encoded)
    assert statistics["mean"] == pytest.approx(latents.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert statistics["std"] == pytest.approx(latents.std((0, 2, 3)).tolist(), abs=1e-6)


def test_only_what_is_new_or_of_another_vae_is_encoded(folders, tmp_path) -> None:
    _, curated, encoded, vae = folders
    sha256 = encode.Encoder(str(vae), "cpu").vae_sha256
    assert encode.plan(curated, encoded, sha256) == []
    assert len(encode.plan(curated, encoded, "another")) == len(shards.part_files(curated))
    save_random(tmp_path / "other", ModelConfig.tiny(), seed=1)
    assert encode.Encoder(str(tmp_path / "other"), "cpu").vae_sha256 != sha256


def test_shards_of_earlier_versions_without_the_clips_frames_are_encoded_anew(folders, tmp_path) -> None:
    _, curated, encoded, vae = folders
    sha256 = encode.Encoder(str(vae), "cpu").vae_sha256
    copies = shutil.copytree(encoded, tmp_path / "encoded")
    frames = {row["clip_id"]: row["video"] for row in shards.read_rows(curated, ["clip_id", "video"])}
    assert {row["clip_id"]: row["video"] for row in shards.read_rows(copies, ["clip_id", "video"])} == frames
    old, *_ = shards.part_files(copies)
    shards.write_table(pq.read_table(old).drop_columns(["video"]), old)
    assert [target for _, target in encode.plan(curated, copies, sha256)] == [old]


def test_video_prompts_are_encoded_beside_the_video_and_added_later(folders, tmp_path) -> None:
    _, curated, _, vae = folders
    run(curated, tmp_path, str(vae))
    sha256 = encode.Encoder(str(vae), "cpu").vae_sha256
    kinds = ("canny", "motion")
    assert len(encode.plan(curated, tmp_path, sha256, kinds)) == len(shards.part_files(curated))
    run(curated, tmp_path, str(vae), video_prompts=kinds)
    assert encode.plan(curated, tmp_path, sha256, kinds) == []
    clip = EncodedClip.from_row(next(shards.read_rows(tmp_path)))
    assert [prompt.shape for prompt in clip.video_prompts] == [clip.latents.shape] * 2
    assert not clip.video_prompts[0].equal(clip.video_prompts[1])
    with pytest.raises(ValueError, match="no video prompt 'pose': use some of canny, motion"):
        run(curated, tmp_path, str(vae), video_prompts=["pose"])


def test_wrong_input_says_what_to_do(folders, tmp_path) -> None:
    _, curated, _, vae = folders
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        run(curated, tmp_path / "out", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="run the curate job first"):
        run(tmp_path, tmp_path / "out", str(vae))
    with pytest.raises(ValueError, match="encoded by 0 VAEs"):
        encode.write_statistics(tmp_path)
