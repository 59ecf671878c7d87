"""PSNR and SSIM of pictures whose values are known."""

import numpy as np
import pytest

from gamegen.evaluation.fidelity import MAX_PSNR_DB, psnr_db, ssim


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
