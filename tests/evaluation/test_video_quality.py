"""Video quality of videos made for it: PSNR, SSIM and the qualities after VBench."""

import cv2
import numpy as np
import pytest
import torch

from gamegen.evaluation import video_quality
from gamegen.evaluation.features import FeatureMaps
from gamegen.evaluation.video_quality import MAX_PSNR_DB, psnr_db, ssim
from tests.footage_samples import panning_frames


def still(num_frames: int = 9) -> np.ndarray:
    return np.repeat(panning_frames(1), num_frames, 0)


def jittering(num_frames: int = 9) -> np.ndarray:
    """The same steps as a steady pan, in an order that goes back and forth."""
    order = np.random.default_rng(0).permutation(num_frames * 3)[:num_frames]
    return panning_frames(num_frames * 3)[order]


def test_what_stands_still_is_perfectly_smooth():
    assert video_quality.motion_smoothness(still()) == 1


def test_steady_motion_is_smooth_and_jitter_is_not():
    assert video_quality.motion_smoothness(panning_frames(9)) > 0.99
    assert video_quality.motion_smoothness(jittering()) < 0.97


def test_flicker_is_its_own_size_less_smooth():
    frames = np.full((9, 48, 64, 3), 100, np.uint8)
    frames[1::2] = 151
    # Each frame lies 51 of 255 grey levels from what its neighbours say.
    assert video_quality.motion_smoothness(frames) == pytest.approx(0.8, abs=1e-3)


def test_dynamic_is_what_moves():
    # 2 pixels a frame are 6 in an eighth of a second, of 72: over 6/256 of the height.
    assert video_quality.is_dynamic(panning_frames(9))
    assert not video_quality.is_dynamic(still())


def test_consistency_is_1_for_the_same_and_falls_with_the_angle():
    same = np.ones((4, 3))
    assert video_quality.consistency(same) == pytest.approx(1)
    turned = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    # Frame 1: 0 to the first, 0 to the one before; frame 2: 0 and 1.
    assert video_quality.consistency(turned) == pytest.approx((0 + 0.5) / 2)


def test_a_changing_border_leaves_the_subject_consistent():
    middle = torch.rand(2, 5, 6, 10, generator=torch.Generator().manual_seed(0))
    middle[1, :, 1:5, 2:8] = middle[0, :, 1:5, 2:8]
    subject, background = video_quality.subject_and_background_consistency(
        FeatureMaps(middle, middle, middle)
    )
    assert subject == pytest.approx(1) and background < 0.999


def test_imaging_quality_falls_with_blur_and_with_clipping():
    sharp = np.random.default_rng(0).integers(60, 200, (2, 48, 64, 3), np.uint8)
    blurred = np.stack([cv2.GaussianBlur(frame, (9, 9), 3) for frame in sharp])
    assert video_quality.imaging_quality(sharp) > 2 * video_quality.imaging_quality(blurred)
    for value in (0, 128, 255):
        assert video_quality.imaging_quality(np.full((2, 48, 64, 3), value, np.uint8)) == 0
    half = sharp.copy()
    half[:, :, :32] = 255
    assert video_quality.imaging_quality(half) < video_quality.imaging_quality(sharp)


def flat(value: int) -> np.ndarray:
    return np.full((2, 32, 48, 3), value, np.uint8)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 32, 48, 3), np.uint8)


def test_identical_frames():
    assert psnr_db(noise(), noise()) == MAX_PSNR_DB
    assert ssim(noise(), noise()) == pytest.approx(1)


def test_black_against_white():
    assert psnr_db(flat(0), flat(255)) == pytest.approx(0)
    # Both terms are c / (255² + c) and 1: nothing varies in either.
    c1 = (0.01 * 255) ** 2
    assert ssim(flat(0), flat(255)) == pytest.approx(c1 / (255**2 + c1), rel=1e-6)


def test_an_error_of_16_grey_levels():
    assert psnr_db(flat(100), flat(116)) == pytest.approx(20 * np.log10(255 / 16))


def test_psnr_is_averaged_over_frames_and_not_over_errors():
    half = flat(100)
    half[1] = 116
    assert psnr_db(half, flat(100)) == pytest.approx((MAX_PSNR_DB + 20 * np.log10(255 / 16)) / 2)


def test_ssim_sees_structure_that_brightness_hides():
    truth = noise()
    brighter = (truth.astype(int) // 2 + 70).astype(np.uint8)
    halved = (truth.astype(int) // 2 + 64).astype(np.uint8)
    assert ssim(brighter, halved) > 0.95
    assert abs(ssim(noise(1), truth)) < 0.1
    assert ssim(255 - truth, truth) < -0.5
