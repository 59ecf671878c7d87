"""Excerpts keep frames, keys and words together; the clips that tests use are sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gamegen.files import file_sha256
from gamegen.footage.clips import read_table
from gamegen.footage.excerpts import cut_excerpt
from gamegen.media.mp4 import read_mp4
from tests.data.make_clips import MAX_TOTAL_BYTES, OUTPUT, WANTED
from tests.footage_samples import make_clip, panning_frames


def test_an_excerpt_holds_the_frames_and_operations_of_its_window(tmp_path: Path) -> None:
    frames = panning_frames(48)
    clip = make_clip(tmp_path, "whole", frames)
    cut = cut_excerpt(clip, tmp_path, tmp_path / "cut", 12, 24, "part")
    pixels = read_mp4(tmp_path / "cut" / cut.path).astype(float)
    assert len(pixels) == cut.num_frames == 24
    assert np.abs(pixels - frames[12:36]).mean() < 12
    assert cut.yaw_deg == clip.yaw_deg[12:36]
    assert cut.sha256 == file_sha256(tmp_path / "cut" / "part.mp4")
    assert [change.frame for change in cut.instructions] == [23 - 12]


def test_an_excerpt_must_lie_in_the_clip_and_start_before_its_changes(tmp_path: Path) -> None:
    clip = make_clip(tmp_path, "whole", panning_frames(48))
    with pytest.raises(ValueError, match="start earlier or cut fewer"):
        cut_excerpt(clip, tmp_path, tmp_path, 40, 24, "late")
    with pytest.raises(ValueError, match="changes at frame 23"):
        cut_excerpt(clip, tmp_path, tmp_path, 24, 12, "changed")


def test_the_test_clips_show_what_their_names_say() -> None:
    clips = {clip.clip_id: clip for clip in read_table(OUTPUT)}
    assert set(clips) == set(WANTED)
    for name, clip in clips.items():
        path = OUTPUT / clip.path
        assert file_sha256(path) == clip.sha256
        assert len(read_mp4(path)) == clip.num_frames == len(clip.keys)
        assert WANTED[name](clip, slice(0, clip.num_frames))
    assert len({clip.world_seed for clip in clips.values()}) >= 2
    assert sum(path.stat().st_size for path in OUTPUT.iterdir()) < MAX_TOTAL_BYTES
