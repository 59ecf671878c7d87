"""Negative prompts as the classifiers see them: the shipped model leads away from what they name."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen.evaluation.avoiding import measure_avoiding, share_of
from gamegen.evaluation.scenes import load_scenes
from gamegen.pipeline import VideoPipeline


@pytest.mark.long
def test_snow_in_the_negative_prompt_is_led_away_from():
    heads, _ = load_scenes()
    pipeline = VideoPipeline.load("nano")
    found = measure_avoiding(pipeline, heads, "snowy plain at noon", "snow", range(32))
    assert found.change.high < 0, str(found)


def test_shares_with_and_without_are_of_the_same_seeds():
    heads, _ = load_scenes()
    pipeline = VideoPipeline.load("nano")
    found = measure_avoiding(pipeline, heads, "snowy plain at noon", "snow", range(2), num_frames=8)
    assert found.change.value == pytest.approx(found.with_negative.value - found.without.value)
    assert found.change.value != 0
    assert str(found).startswith(f"without {found.without.value:.3f} [")


def test_a_word_of_no_caption_is_refused():
    heads, _ = load_scenes()
    frames = np.zeros((8, 96, 160, 3), np.uint8)
    assert 0 <= share_of(heads, frames, "snow") <= 1
    with pytest.raises(ValueError, match="says 'elephants': name one"):
        share_of(heads, frames, "elephants")
