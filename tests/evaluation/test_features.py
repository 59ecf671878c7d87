"""The feature network tells things apart, and pools where it says."""

import numpy as np
import pytest
import torch

from gamegen.curation.decode import decode_clip
from gamegen.evaluation.features import FeatureMaps, feature_network
from gamegen.video import resize_to
from tests.data.make_clips import OUTPUT


def real_frames(name: str, count: int = 2) -> np.ndarray:
    return resize_to(decode_clip(OUTPUT / f"{name}.mp4", count), (160, 96))


def test_maps_have_the_sizes_they_say():
    maps = feature_network().maps(real_frames("forward"))
    assert maps.fine.shape == (2, 40, 12, 20)
    assert maps.middle.shape == (2, 112, 6, 10)
    assert maps.last.shape == (2, 1280, 3, 5)
    assert maps.pooled().shape == (2, 1280)


def test_neighbouring_frames_are_nearer_than_other_scenes():
    here, other = (feature_network().maps(real_frames(name)).pooled() for name in ("forward", "night"))
    assert np.linalg.norm(here[0] - here[1]) < 0.5 * np.linalg.norm(here[0] - other[0])


def test_passes_of_any_size_give_the_same():
    frames = real_frames("left", 3)
    whole, split = (feature_network().maps(frames, n).pooled() for n in (3, 1))
    assert split == pytest.approx(whole, abs=1e-4)


def test_centre_and_border_are_apart():
    middle = torch.zeros(1, 1, 6, 10)
    middle[:, :, 1:5, 2:8] = 1
    centre, border = FeatureMaps(middle, middle, middle).centre_and_border()
    assert centre.item() == 1 and border.item() == 0
