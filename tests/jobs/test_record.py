"""The recording job on a real local Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from gamegen.footage.clips import read_table
from gamegen.footage.plan import PlanConfig
from jobs.record import RecordConfig, parse_size, record, run

PLAN = PlanConfig(num_frames=36, clips_per_world=2, first_change=12, last_change=4, change_gap=6)
SECONDS_PER_CLIP = PLAN.num_frames / 24


def config(output: Path, clips: int) -> RecordConfig:
    return RecordConfig(
        "vizdoom", clips * SECONDS_PER_CLIP / 3600, output, seed=4, start_gap_s=0.0, plan=PLAN
    )


def test_the_job_records_worlds_and_goes_on_where_it_stopped(ray_cluster, tmp_path: Path) -> None:
    assert record(config(tmp_path, clips=3)) == 3
    assert record(config(tmp_path, clips=3)) == 0
    assert record(config(tmp_path, clips=4)) == 1
    clips = read_table(tmp_path)
    assert len(clips) == 4
    assert {clip.world_seed for clip in clips} == {4001, 4002}
    assert all(clip.num_frames == 36 and clip.instructions for clip in clips)


def test_a_failed_world_is_reported_and_the_others_are_recorded(ray_cluster, tmp_path: Path) -> None:
    (tmp_path / "vizdoom-004001-00.mp4.partial").mkdir()  # the first world cannot write its clip
    with pytest.raises(RuntimeError, match="1 worlds failed; run again"):
        record(config(tmp_path, clips=4))
    assert {clip.world_seed for clip in read_table(tmp_path)} == {4002}


def test_a_size_is_read_or_refused() -> None:
    assert parse_size("256x144") == (256, 144)
    for wrong in ("256", "axb", "32x32", "257x144"):
        with pytest.raises(ValueError, match="256x144"):
            parse_size(wrong)


def test_every_scene_and_a_number_of_hours_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--every-scene"):
        run(tmp_path, hours=2.0, every_scene=True)
