"""Footage without a key log becomes rows like recorded ones, which curation and encoding take."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from gamegen.controls import MOVEMENT_KEYS
from gamegen.curation.curate import CurationConfig, curate_clip, plan
from gamegen.curation.encoded import aligned_operations, segment_prompts
from gamegen.curation.labelling import fill_in, label_videos
from gamegen.curation.labels import Scenery, find_videos
from gamegen.curation.shards import read_rejected
from gamegen.footage.clips import read_table
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
    label_videos(video.parent, tmp_path / "keys.parquet", Scenery("mygame", "snowy forest"), model)
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
    filled = {clip.clip_id: clip for clip in fill_in(source, target, model).clips}
    assert list(filled.values()) == read_table(target)
    stored = {clip.clip_id: clip for clip in read_table(source)}
    assert filled["known"] == dataclasses.replace(stored["known"], path="../known.mp4")
    assert len(filled["bare"].keys) == len(filled["bare"].yaw_deg) == len(filled["bare"].pitch_deg) == 8
    assert filled["bare"].prompts == bare.prompts


def test_what_cannot_be_labelled_is_said(model, tmp_path):
    table = tmp_path / "keys.parquet"
    with pytest.raises(FileNotFoundError, match="no video at"):
        find_videos(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"none of 1 videos can be read; broken\.mp4: .* cannot be read"):
        label_videos(tmp_path, table, Scenery(), model)
    assert not table.exists()
    with pytest.raises(ValueError, match="first, third"):
        Scenery(view="second")


def folder_with_bad_files(folder):
    """Three videos, one of them with no suffix of a video, between files that are none."""
    folder.mkdir()
    for name in ("a.mp4", "c.clip", "e.mp4"):
        write_mp4(folder / "writing.mp4", panning_frames(8, ord(name[0])))
        (folder / "writing.mp4").rename(folder / name)
    (folder / "b.mp4").write_bytes(b"no video")
    (folder / "d.mp4").write_bytes((folder / "a.mp4").read_bytes()[:-200])
    (folder / "._a.mp4").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "f.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "notes.txt").write_text("walks in a forest")


def test_bad_files_are_put_aside_with_the_reason_and_the_others_labelled(model, tmp_path):
    footage, table = tmp_path / "footage", tmp_path / "footage" / "keys.parquet"
    folder_with_bad_files(footage)
    report = label_videos(footage, table, Scenery(), model)
    assert [clip.path for clip in report.clips] == ["a.mp4", "c.clip", "e.mp4"]
    assert sorted(read_table(footage), key=lambda clip: clip.path) == report.clips
    rejected = {clip.path: clip for clip in read_rejected(footage)}
    assert sorted(rejected) == ["b.mp4", "d.mp4"]
    assert "cannot be read" in rejected["b.mp4"].detail and "cut off" in rejected["d.mp4"].detail
    # A table of macOS is none, and the list of rejects neither.
    (footage / "._keys.parquet").write_bytes(b"\0\5\x16\7")
    assert sum(len(step.clip_ids) for step in plan(footage, tmp_path / "out", CurationConfig())) == 3


def test_labelling_goes_on_where_it_was_interrupted(model, tmp_path, monkeypatch):
    footage, table = tmp_path / "footage", tmp_path / "footage" / "keys.parquet"
    folder_with_bad_files(footage)
    seen = []

    def predict(frames):
        seen.append(len(frames))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return InverseDynamics.predict(model, frames)

    monkeypatch.setattr(model, "predict", predict)
    with pytest.raises(KeyboardInterrupt):
        label_videos(footage, table, Scenery(), model)
    assert [clip.path for clip in sorted(read_table(table), key=lambda c: c.path)] == ["a.mp4", "c.clip"]
    first = label_videos(footage, table, Scenery(), model)
    assert len(first.clips) == 3 and len(seen) == 4
    assert label_videos(footage, table, Scenery(), model) == first and len(seen) == 4
    # Another place is another label, a changed or mended video is labelled again, and one that is gone leaves.
    label_videos(footage, table, Scenery(place="desert"), model)
    assert len(seen) == 7
    (footage / "a.mp4").replace(footage / "b.mp4")
    again = label_videos(footage, table, Scenery(place="desert"), model)
    assert sorted(clip.path for clip in again.clips) == ["b.mp4", "c.clip", "e.mp4"] and len(seen) == 8
    assert [clip.path for clip in again.rejected] == ["d.mp4"]


def test_a_table_is_filled_in_as_it_goes(model, tmp_path):
    bare = {"keys": [], "yaw_deg": [], "pitch_deg": []}
    clips = [make_clip(tmp_path, name, panning_frames(8, i), **bare) for i, name in enumerate("abc")]
    clips[1] = dataclasses.replace(clips[1], num_frames=9)
    (tmp_path / "c.mp4").unlink()
    table = write_footage(tmp_path, clips) / "clips.parquet"
    report = fill_in(table, table, model)
    assert [len(clip.keys) for clip in read_table(table)] == [8, 0, 0]
    assert "shows 8 frames, the clip table says 9" in report.rejected[0].detail
    assert "No such file" in report.rejected[1].detail
    (tmp_path / "c.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    fill_in(table, table, model)
    assert [len(clip.keys) for clip in read_table(table)] == [8, 0, 8]


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
