"""Scene heads: trained on truth, shipped, and right on real clips."""

from pathlib import Path

import numpy as np
import pytest

from gamegen.curation.encoded import ALIKE
from gamegen.evaluation import scenes
from gamegen.evaluation.real_clips import SHIPPED_CLIPS, clips_in
from gamegen.evaluation.scenes import ATTRIBUTES, Examples, ScenesConfig, describe, examples_of, train_heads
from gamegen.media.mp4 import encode_mp4


def coloured(value: int, num_frames: int = 64) -> np.ndarray:
    noise = np.random.default_rng(value).integers(0, 40, (num_frames, 64, 64, 3))
    return (noise + value).clip(0, 255).astype(np.uint8)


def row(value: int, **truth: list[str]) -> dict:
    frames = coloured(value)
    known = {name: ["x"] * len(frames) for name in ATTRIBUTES}
    return {"clip_id": str(value), "video": encode_mp4(frames, 24), **known, **truth}


def test_heads_learn_what_is_in_the_pictures_and_come_back_from_their_file(tmp_path: Path):
    day, night = (np.stack([describe(coloured(v + i)[:8]) for i in range(6)]) for v in (180, 10))
    truth = {
        "time_of_day": ["day"] * 6 + ["night"] * 6,
        **{n: ["x"] * 12 for n in ATTRIBUTES if n != "time_of_day"},
    }
    examples = Examples(np.concatenate([day, night]), truth)
    heads = train_heads(examples)
    unseen = np.stack([describe(coloured(v)[:8]) for v in (190, 5)])
    told = heads.probabilities(unseen)["time_of_day"]
    assert [heads.labels["time_of_day"][i] for i in told.argmax(1)] == ["day", "night"]
    assert heads.accuracy(examples)["time_of_day"] == 1
    assert heads.accuracy_by_value(examples)["time_of_day"] == {"day": 1, "night": 1}
    scenes.save_scenes(heads, tmp_path, {"stage": "scenes"})
    loaded, card = scenes.load_scenes(tmp_path)
    assert loaded.probabilities(unseen)["time_of_day"] == pytest.approx(told, abs=1e-2)
    assert card["labels"]["time_of_day"] == ["day", "night"]
    file = tmp_path / scenes.HEADS_FILE
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        scenes.load_scenes(tmp_path)


def test_windows_around_a_change_are_left_out_and_twilight_is_one():
    changing = row(90, time_of_day=["dusk"] * 30 + ["dawn"] * 2 + ["night"] * 32)
    examples = examples_of([changing], ScenesConfig(stride_frames=8, settle_frames=8))
    # Windows start at 0, 8, ... 56: those that reach from before frame 32 to behind it see two times of day.
    assert examples.truth["time_of_day"] == ["twilight"] * 3 + ["night"] * 3
    assert examples.descriptions.shape[0] == 6


def test_the_shipped_heads_know_the_real_clips_of_the_repository():
    heads, card = scenes.load_scenes()
    right = []
    for real in clips_in(SHIPPED_CLIPS):
        window = real.frames((160, 96))[-scenes.WINDOW_FRAMES :]
        told = heads.probabilities(describe(window)[None])
        for name in ("time_of_day", "view"):
            true = getattr(real.clip, name)[-1]
            right.append(heads.labels[name][told[name].argmax()] == ALIKE.get(true, true))
    assert np.mean(right) > 0.8
    assert set(card["held_out_accuracy"]) == set(ATTRIBUTES)


def test_no_shards_and_no_lasting_scene_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no curated shards of train"):
        scenes._rows(tmp_path, ("train",))
    with pytest.raises(ValueError, match="no clip stays the same"):
        examples_of([row(50, view=["first", "third"] * 32)], ScenesConfig())
