"""Quality of videos: with a true video by PSNR and SSIM, without one after VBench.

VBench is Huang et al. 2024, "VBench: Comprehensive Benchmark Suite". The names are VBench's, the definitions are not,
since its networks (AMT, RAFT, DINO, CLIP, MUSIQ) are not at hand: figures compare with each other and with real clips,
not with published ones. Frames are uint8 `(T, H, W, 3)` RGB.
"""

from __future__ import annotations

import cv2
import numpy as np

from gamegen.evaluation import motion
from gamegen.evaluation.features import FeatureMaps

MAX_PSNR_DB = 60.0
"""PSNR of identical frames, so that means stay finite."""
_SIGMA_PX, _RADIUS_PX = 1.5, 5
DYNAMIC_SPEED = 6 / 256
"""Speed, as a share of the frame's smaller side in an eighth of a second, from which a video counts as dynamic."""
_FRAMES_APART = 3
_SHARP_DETAIL = 8.0
_BLACK, _WHITE = 4, 251


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
    pairs = zip(motion.luminance(frames), motion.luminance(truth), strict=True)
    return float(np.mean([_ssim(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs]))


def motion_smoothness(frames: np.ndarray) -> float:
    """1 less the mean error, as a share of 255, of each frame interpolated from its two neighbours.

    Raises ValueError for fewer than 3 frames.

    VBench draws the frame between with AMT; here both neighbours are moved half-way along their DIS flow.
    """
    if len(frames) < 3:
        raise ValueError(f"{len(frames)} frames: motion smoothness needs at least 3")
    errors = []
    for before, frame, after in zip(frames, frames[1:], frames[2:], strict=False):
        forward = motion.optical_flow(np.stack([before, after]))[0]
        backward = motion.optical_flow(np.stack([after, before]))[0]
        middle = (_moved(before, forward / 2) + _moved(after, backward / 2)) / 2
        errors.append(np.abs(middle - frame).mean() / 255)
    return 1 - float(np.mean(errors))


def is_dynamic(frames: np.ndarray) -> bool:
    """True if the fastest 5 % of the picture move by `DYNAMIC_SPEED`, in the mean, between frames 1/8 s apart.

    VBench's threshold, with DIS flow for RAFT. The dynamic degree is the share of videos for which this holds.
    """
    flow = motion.optical_flow(frames[::_FRAMES_APART])
    lengths = np.sort(np.linalg.norm(flow, axis=-1).reshape(len(flow), -1), 1)
    fastest = lengths[:, -max(1, lengths.shape[1] // 20) :]
    return bool(fastest.mean() >= DYNAMIC_SPEED * min(frames.shape[1:3]))


def consistency(features: np.ndarray) -> float:
    """Mean cosine similarity of each frame's features `(T, D)` with the first's and the one's before, as VBench's."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-8)
    first, before = unit[1:] @ unit[0], (unit[1:] * unit[:-1]).sum(1)
    return float(((first + before) / 2).mean())


def subject_and_background_consistency(maps: FeatureMaps) -> tuple[float, float]:
    """`consistency` of the frame's inner half, where a player stands, and of what is around it.

    VBench compares whole frames by DINO for the subject and by CLIP for the background; here both are
    EfficientNet-lite0's, told apart by place.
    """
    centre, border = maps.centre_and_border()
    return consistency(centre), consistency(border)


def imaging_quality(frames: np.ndarray) -> float:
    """Sharpness times exposure, 0 to 1: 0 for flat, black or white frames.

    Sharpness is d / (d + 8) for a mean gradient of d grey levels a pixel, exposure the share of pixels that are
    neither black nor white. VBench's is MUSIQ, a network trained on people's opinions of photographs.
    """
    grey = motion.luminance(frames)
    detail = motion.detail(frames)
    exposure = float(((grey > _BLACK) & (grey < _WHITE)).mean())
    return detail / (detail + _SHARP_DETAIL) * exposure


def _moved(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The frame moved along a flow `(H, W, 2)`, float32."""
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]].astype(np.float32)
    source = (x - flow[..., 0], y - flow[..., 1])
    return cv2.remap(frame.astype(np.float32), *source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


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
