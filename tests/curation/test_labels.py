"""Footage without a key log becomes rows like recorded ones, which curation and encoding take."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from gamegen.controls import MOVEMENT_KEYS
from gamegen.curation.curate import CurationConfig, curate_clip
from gamegen.curation.encoded import aligned_operations, segment_prompts
from gamegen.curation.labels import Scenery, fill_in, find_videos, label_video
from gamegen.footage.clips import read_table, write_table
from gamegen.media.mp4 import read_mp4, write_mp4
from gamegen.models.checkpoint import save_checkpoint
from gamegen.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from tests.footage_samples import make_clip, panning_frames, write_footage


@pytest.fixture(scope="module")
def model() -> InverseDynamics:
    torch.manual_seed(0)
    return InverseDynamics(InverseDynamicsConfig.tiny()).eval()


def test_a_bare_video_becomes_a_clip_that_curation_and_encoding_take(model, tmp_path):
    video = tmp_path / "videos" / "walk.mp4"
    video.parent.mkdir()
    write_mp4(video, panning_frames(48))
    clip = label_video(video, tmp_path / "keys.parquet", Scenery("mygame", "snowy forest"), model)
    write_table([clip], tmp_path / "keys.parquet")
    (read,) = read_table(tmp_path)
    assert read.path == "videos/walk.mp4"
    assert (read.num_frames, len(read.keys), len(read.yaw_deg)) == (48, 48, 48)
    assert read.keys[-1] == [] and {key for held in read.keys for key in held} <= set(MOVEMENT_KEYS)
    assert read.keys[:-1] == model.predict(read_mp4(video)).names()

    row = curate_clip(read, tmp_path / read.path, "train", CurationConfig())
    assert isinstance(row, dict) and row["bucket"] == "160x96x48"
    assert aligned_operations(read, 12).shape == (12, 4, 9)
    ((chunk, prompts),) = segment_prompts(read, 12)
    assert chunk == 0 and any("snowy forest" in prompt for prompt in prompts)


def test_only_clips_without_keys_are_filled_in(model, tmp_path):
    known = make_clip(tmp_path, "known", panning_frames(8))
    bare = make_clip(tmp_path, "bare", panning_frames(8, 1), keys=[], yaw_deg=[], pitch_deg=[])
    with pytest.raises(ValueError, match="bare has no keys"):
        aligned_operations(bare, 2)
    source = write_footage(tmp_path, [known, bare]) / "clips.parquet"
    target = tmp_path / "labels" / "clips.parquet"
    filled = {clip.clip_id: clip for clip in fill_in(source, target, model)}
    stored = {clip.clip_id: clip for clip in read_table(source)}
    assert filled["known"] == dataclasses.replace(stored["known"], path="../known.mp4")
    assert len(filled["bare"].keys) == len(filled["bare"].yaw_deg) == len(filled["bare"].pitch_deg) == 8
    assert filled["bare"].prompts == bare.prompts


def test_what_cannot_be_labelled_is_said(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no video at"):
        find_videos(tmp_path)
    slow = tmp_path / "slow.mp4"
    write_mp4(slow, panning_frames(8), fps=30)
    with pytest.raises(ValueError, match="30 frames a second: convert it to 24"):
        label_video(slow, tmp_path / "keys.parquet", Scenery(), model)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(ValueError, match="cannot be read"):
        label_video(broken, tmp_path / "keys.parquet", Scenery(), model)
    with pytest.raises(ValueError, match="first, third"):
        Scenery(view="second")


def test_the_command_labels_a_folder(model, tmp_path):
    checkpoint, footage = tmp_path / "idm", tmp_path / "footage"
    save_checkpoint(checkpoint, model.config, model.state_dict(), {"stage": "idm"})
    footage.mkdir()
    for seed in range(2):
        write_mp4(footage / f"{seed}.mp4", panning_frames(8, seed))
    command = [
        sys.executable,
        "-m",
        "gamegen.cli",
        "idm",
        "label",
        str(footage),
        "--checkpoint",
        str(checkpoint),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    clips = read_table(footage / "keys.parquet")
    assert [len(clip.keys) for clip in clips] == [8, 8]
    assert len({clip.world_seed for clip in clips}) == 2
