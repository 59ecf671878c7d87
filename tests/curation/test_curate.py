from pathlib import Path

import numpy as np
import pytest

from gamegen.curation.buckets import BucketConfig
from gamegen.curation.curate import CurationConfig, curate_clip
from gamegen.curation.shards import RejectedClip
from gamegen.evaluation.real_clips import SHIPPED_CLIPS
from gamegen.footage.clips import Clip, read_table
from gamegen.footage.geometry import CameraTrack
from tests.footage_samples import HEIGHT, NUM_FRAMES, WIDTH, make_clip, panning_frames, write_footage


@pytest.mark.parametrize("clip", read_table(SHIPPED_CLIPS / "clips.parquet"), ids=lambda clip: clip.clip_id)
def test_real_footage_is_good_footage(clip: Clip) -> None:
    row = curate_clip(clip, SHIPPED_CLIPS / clip.path, "train", CurationConfig())
    assert not isinstance(row, RejectedClip), row
    assert (row["width"], row["height"], row["source_sha256"]) == (160, 96, clip.sha256)
    assert row["num_frames"] == clip.num_frames


def test_a_truncated_recording_is_broken(tmp_path: Path) -> None:
    clip = read_table(SHIPPED_CLIPS / "clips.parquet")[0]
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((SHIPPED_CLIPS / clip.path).read_bytes()[: clip.size_bytes // 2])
    outcome = curate_clip(clip, cut, "train", CurationConfig())
    assert isinstance(outcome, RejectedClip)
    assert (outcome.reason, outcome.detail) == ("broken", "SHA-256 differs from the clip table's")


@pytest.mark.parametrize(("size", "seen"), [((160, 96), 1.0), ((128, 48), 2 / 3)])
def test_depth_and_field_of_view_are_cropped_like_the_frames(tmp_path: Path, size, seen) -> None:
    """A wall to the left, the sky to the right; a bucket that is wider takes away above and below."""
    depth = np.zeros((NUM_FRAMES, HEIGHT // 4, WIDTH // 4), np.uint8)
    depth[:, :, : WIDTH // 8] = 40
    clip = make_clip(tmp_path, "clip", panning_frames(), inverse_depth=depth.tobytes(), vertical_fov_deg=60.0)
    write_footage(tmp_path, [clip])
    config = CurationConfig(buckets=BucketConfig(sizes=(size,)))
    row = curate_clip(read_table(tmp_path)[0], tmp_path / clip.path, "train", config)
    assert not isinstance(row, RejectedClip), row
    track = CameraTrack.from_row(row)
    assert track is not None
    width, height = size
    assert track.inverse_depth.shape == (NUM_FRAMES, height // 4, width // 4)
    assert (track.inverse_depth[:, :, : width // 8 - 2] == 40).all()
    assert not track.inverse_depth[:, :, width // 8 + 2 :].any()
    tangent = np.tan(np.radians(track.vertical_fov_deg / 2))
    assert tangent == pytest.approx(seen * np.tan(np.radians(30)))
