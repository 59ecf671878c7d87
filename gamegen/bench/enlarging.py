"""Comparison of upscaling methods, and of frame interpolation, on real footage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.table import Table

from gamegen.media.enlarging import ENLARGERS
from gamegen.media.motion_interpolation import INTERPOLATOR, FrameInterpolator
from gamegen.media.mp4 import read_mp4
from gamegen.media.size import Size

_MAX_CLIPS, _MAX_FRAMES, _EVERY = 8, 96, 12
_CONSTANTS = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def comparison(clips: Sequence[Path], size: Size) -> Table:
    """A table of PSNR, SSIM and milliseconds a frame over the first clips; raises ValueError if there are none."""
    if not clips:
        raise ValueError("there are no MP4s: give a folder of real footage")
    videos = [read_mp4(clip, _MAX_FRAMES) for clip in clips[:_MAX_CLIPS]]
    table = Table("", "PSNR", "SSIM", "ms a frame", f"ms to {size}")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for name, enlarge in ENLARGERS.items():
            rows = [_enlarged(frame, enlarge) for video in videos for frame in video[::_EVERY]]
            started = time.perf_counter()
            enlarge(videos[0][0], size)
            table.add_row(name, *_figures(rows), f"{1000 * (time.perf_counter() - started):.1f}")
        for name, between in (("frame before", _repeated), (INTERPOLATOR, _interpolated)):
            rows = [row for video in videos for row in between(video)]
            table.add_row(name, *_figures(rows), "")
    finally:
        cv2.setNumThreads(threads)
    return table


Row = tuple[float, float, float]
"""PSNR in dB, SSIM, and seconds of a frame."""


def _figures(rows: Sequence[Row]) -> tuple[str, str, str]:
    psnr_db, ssim, seconds = np.mean(rows, 0)
    return f"{psnr_db:.2f}", f"{ssim:.3f}", f"{1000 * seconds:.2f}"


def _enlarged(frame: np.ndarray, enlarge: Callable[[np.ndarray, tuple[int, int]], np.ndarray]) -> Row:
    height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
    real = frame[:height, :width]
    small = cv2.resize(real, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    started = time.perf_counter()
    made = enlarge(small, (width, height))
    return *_similarity(real, made), time.perf_counter() - started


def _interpolated(video: np.ndarray) -> list[Row]:
    interpolator, rows = FrameInterpolator(1, 2), []
    made: list[np.ndarray] = []
    for index, frame in enumerate(video[::2]):
        started = time.perf_counter()
        made += interpolator.push(frame)
        seconds = time.perf_counter() - started
        if index:
            rows.append((*_similarity(video[2 * index - 1], made[2 * index - 1]), seconds))
    return rows


def _repeated(video: np.ndarray) -> list[Row]:
    return [
        (*_similarity(real, before), 0.0) for before, real in zip(video[:-2:2], video[1:-1:2], strict=True)
    ]


def _similarity(real: np.ndarray, made: np.ndarray) -> tuple[float, float]:
    """PSNR in dB, at most 60, and SSIM of brightness (Wang et al. 2004) of two pictures uint8 `(H, W, 3)`."""
    error = np.mean((real.astype(np.float64) - made) ** 2)
    psnr_db = min(60.0, 10 * np.log10(255**2 / max(error, 1e-9)))
    a, b = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64) for picture in (real, made))
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a, var_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    first, second = _CONSTANTS
    luminance = (2 * mean_a * mean_b + first) / (mean_a**2 + mean_b**2 + first)
    structure = (2 * covariance + second) / (var_a + var_b + second)
    return float(psnr_db), float((luminance * structure).mean())


def _blurred(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (11, 11), 1.5)
