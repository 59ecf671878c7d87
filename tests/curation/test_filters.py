import numpy as np
import pytest

from gamegen.curation.filters import FilterConfig, measure, rejection
from tests.footage_samples import panning_frames


def verdict(frames: np.ndarray) -> str | None:
    found = rejection(measure(frames, FilterConfig()), FilterConfig())
    return found[0] if found else None


def test_a_moving_clip_is_kept() -> None:
    assert verdict(panning_frames()) is None


def test_a_dark_scene_with_lit_pixels_is_not_black() -> None:
    frames = panning_frames() // 6
    assert verdict(frames) is None


def test_black_frozen_and_near_static_clips_are_named() -> None:
    moving = panning_frames()
    still = np.repeat(moving[:1], len(moving), axis=0)
    flicker = still.copy()
    flicker[1::2, :6, :6] ^= 32
    assert verdict(np.zeros_like(moving)) == "black"
    assert verdict(still) == "frozen"
    assert verdict(flicker) == "near-static"


def test_standing_still_inside_a_moving_clip_is_fine() -> None:
    frames = panning_frames()
    frames[10:34] = frames[10]
    assert verdict(frames) is None


def test_a_single_frame_is_frozen() -> None:
    assert verdict(panning_frames(1)) == "frozen"


def test_contradictory_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frozen_difference = 2\.0 is above"):
        FilterConfig(frozen_difference=2.0)
    with pytest.raises(ValueError, match=r"min_moving_fraction = 1\.5"):
        FilterConfig(min_moving_fraction=1.5)
