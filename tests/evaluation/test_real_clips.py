"""Real clips from shards and from folders, and what an evaluation asks worlds for."""

from collections import Counter

import pytest

from gamegen.curation.curate import CurationConfig, curate_shard, plan
from gamegen.evaluation.measurements import THIRD_PERSON_SHARE, drawn_facts
from gamegen.evaluation.real_clips import SHIPPED_CLIPS, clips_in, fingerprint, held_out_clips
from tests.footage_samples import make_clip, panning_frames, write_footage


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    root = tmp_path_factory.mktemp("real")
    clips = [make_clip(root / "footage", f"clip-{i}", panning_frames(seed=i), world_seed=i) for i in range(4)]
    write_footage(root / "footage", clips)
    for step in plan(root / "footage", root / "curated", CurationConfig()):
        curate_shard(step, root / "footage", root / "curated", CurationConfig())
    return root / "curated"


def test_held_out_clips_are_those_that_training_does_not_see(curated):
    held_out = held_out_clips(curated)
    assert len(held_out) == 2
    assert held_out[0].frames((32, 32)).shape == (48, 32, 32, 3)


def test_clips_of_a_folder_have_their_truth_and_their_words():
    clips = clips_in(SHIPPED_CLIPS)
    night = next(real for real in clips if real.clip.clip_id == "night")
    assert night.facts(0).time_of_day == "night"
    assert night.prompt(0) == night.prompt(0)
    assert fingerprint(clips) != fingerprint(clips[:-1])


def test_no_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no validation or test clip"):
        held_out_clips(tmp_path)
    with pytest.raises(FileNotFoundError, match="no clip table"):
        clips_in(tmp_path)


def test_worlds_are_asked_for_every_value_about_as_often():
    facts = [drawn_facts(seed) for seed in range(1200)]
    assert drawn_facts(7) == facts[7]
    for name, num_values in (("biome", 12), ("weather", 4), ("time_of_day", 4)):
        counts = Counter(getattr(fact, name) for fact in facts)
        assert len(counts) == num_values
        assert min(counts.values()) > 0.6 * 1200 / num_values
    third = sum(fact.view == "third" for fact in facts) / 1200
    assert third == pytest.approx(THIRD_PERSON_SHARE, abs=0.05)
