from pathlib import Path

import pytest

from gamegen.curation.curate import CurationConfig, curate_clip
from gamegen.curation.shards import RejectedClip
from gamegen.footage.clips import Clip, read_table

CLIPS = Path(__file__).parent.parent / "data" / "clips"


@pytest.mark.parametrize("clip", read_table(CLIPS / "clips.parquet"), ids=lambda clip: clip.clip_id)
def test_real_footage_is_good_footage(clip: Clip) -> None:
    row = curate_clip(clip, CLIPS / clip.path, "train", CurationConfig())
    assert not isinstance(row, RejectedClip), row
    assert (row["width"], row["height"], row["source_sha256"]) == (160, 96, clip.sha256)
    assert row["num_frames"] == clip.num_frames


def test_a_truncated_recording_is_broken(tmp_path: Path) -> None:
    clip = read_table(CLIPS / "clips.parquet")[0]
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((CLIPS / clip.path).read_bytes()[: clip.size_bytes // 2])
    outcome = curate_clip(clip, cut, "train", CurationConfig())
    assert isinstance(outcome, RejectedClip)
    assert (outcome.reason, outcome.detail) == ("broken", "SHA-256 differs from the clip table's")
