"""Features that tell scenes apart, and Fréchet distances that are known in closed form."""

import numpy as np
import pytest
import torch

from gamegen.evaluation.features import FeatureMaps, FrechetReference, feature_network, frechet_distance
from gamegen.media.frames import resize_to
from gamegen.media.mp4 import read_mp4
from tests.data.make_clips import OUTPUT


def real_frames(name: str, count: int = 2) -> np.ndarray:
    return resize_to(read_mp4(OUTPUT / f"{name}.mp4", count), (160, 96))


def test_maps_have_the_sizes_they_say():
    maps = feature_network().maps(real_frames("forward"))
    assert maps.fine.shape == (2, 40, 12, 20)
    assert maps.middle.shape == (2, 112, 6, 10)
    assert maps.last.shape == (2, 1280, 3, 5)
    assert maps.pooled().shape == (2, 1280)
    assert maps.by_cell().shape == (2, 15, 112)
    np.testing.assert_allclose(np.linalg.norm(maps.by_cell(), axis=-1), 1, rtol=1e-5)


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


def gaussian(
    mean: list[float], deviations: list[float], num_samples: int = 1_000, seed: int = 0
) -> np.ndarray:
    """Samples whose mean and covariance are exactly those asked for."""
    samples = np.random.default_rng(seed).standard_normal((num_samples, len(mean)))
    samples -= samples.mean(0)
    whitened = samples @ np.linalg.inv(np.linalg.cholesky(np.cov(samples.T))).T
    return whitened * deviations + mean


def test_shifted_and_scaled_gaussians_have_the_closed_form():
    a = gaussian([0, 0, 0], [1, 2, 3])
    b = gaussian([3, 4, 0], [2, 2, 1], seed=1)
    # 3² + 4², and the squared differences of deviations: 1² + 0² + 2².
    assert frechet_distance(a, b) == pytest.approx(25 + 5, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(30, rel=1e-6)


def test_a_rotated_covariance_has_the_closed_form():
    a = gaussian([0, 0], [1, 3])
    turned = gaussian([0, 0], [3, 1], seed=1)
    # Commuting covariances diag(1, 9) and diag(9, 1): tr(S1 + S2) - 2 tr diag(3, 3).
    assert frechet_distance(a, turned) == pytest.approx(20 - 12, rel=1e-6)


def test_the_same_set_has_distance_0_also_with_fewer_samples_than_dimensions():
    few = np.random.default_rng(0).standard_normal((8, 50))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(few, few + 2) == pytest.approx(4 * 50)


def test_units_may_be_drawn_again_and_their_samples_count_together():
    units, other = (np.random.default_rng(seed).standard_normal((5, 3, 4)) for seed in (0, 1))
    reference = other.reshape(-1, 4)
    drawn = np.array([0, 0, 3, 4, 1])
    distance = FrechetReference(reference).distance_of(units)(drawn)
    assert distance == pytest.approx(frechet_distance(units[drawn].reshape(-1, 4), reference), rel=1e-6)


def test_one_sample_is_refused():
    for a, b in ((1, 2), (2, 1)):
        with pytest.raises(ValueError, match="1 samples: a Fréchet distance needs at least 2 a side"):
            frechet_distance(np.zeros((a, 3)), np.zeros((b, 3)))
