"""How near frames are to the true ones: PSNR and SSIM. Frames are uint8 `(T, H, W, 3)` RGB."""

from __future__ import annotations

import cv2
import numpy as np

from gamegen.evaluation.motion import luminance

MAX_PSNR_DB = 60.0
"""What identical frames are given, so that means stay finite."""
_SIGMA_PX, _RADIUS_PX = 1.5, 5


def psnr_db(frames: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames of the peak signal-to-noise ratio in decibels, at most `MAX_PSNR_DB`."""
    error = ((frames.astype(np.float64) - truth.astype(np.float64)) ** 2).mean((1, 2, 3))
    least = 255**2 / 10 ** (MAX_PSNR_DB / 10)
    return float((10 * np.log10(255**2 / np.maximum(error, least))).mean())


def ssim(frames: np.ndarray, truth: np.ndarray) -> float:
    """Mean structural similarity of luma, 1 for identical frames.

    Gaussian windows of 11x11 pixels and 1.5 pixels deviation, means over places where a window fits (Wang et al.
    2004, "Image Quality Assessment: From Error Visibility to Structural Similarity").
    """
    pairs = zip(luminance(frames), luminance(truth), strict=True)
    return float(np.mean([_ssim(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs]))


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    variance_a, variance_b = _local_mean(a * a) - mean_a**2, _local_mean(b * b) - mean_b**2
    covariance = _local_mean(a * b) - mean_a * mean_b
    luminance_term = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure_term = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return float((luminance_term * structure_term).mean())


def _local_mean(x: np.ndarray) -> np.ndarray:
    size = 2 * _RADIUS_PX + 1
    blurred = cv2.GaussianBlur(x, (size, size), _SIGMA_PX)
    return blurred[_RADIUS_PX:-_RADIUS_PX, _RADIUS_PX:-_RADIUS_PX]
