"""Frames between: what moves is half-way, what is drawn stays, and scenes are not mixed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gamegen.media.enlarging import back_projected, bicubic, bring_to
from gamegen.media.frames import resize_to
from gamegen.media.motion_interpolation import FrameInterpolator


def texture(seed: int, width: int = 160, height: int = 96) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def sliding(count: int, pixels: int, seed: int = 0) -> np.ndarray:
    """A picture that moves to the left by so many pixels a frame."""
    wide = texture(seed, 160 + pixels * count)
    return np.stack([wide[:, pixels * i : pixels * i + 160] for i in range(count)])


def made(frames: np.ndarray, fps: int) -> np.ndarray:
    interpolator = FrameInterpolator(24, fps)
    found = [each for frame in frames for each in interpolator.push(frame)]
    return np.stack([*found, *interpolator.rest(-(-len(frames) * fps // 24))])


@pytest.mark.parametrize("fps", [30, 60])
def test_what_moves_is_where_it_is_at_that_moment(fps):
    frames = sliding(9, 4)
    shown = made(frames, fps)
    assert len(shown) == -(-9 * fps // 24)
    for index, frame in enumerate(shown):
        at = 24 * index / fps
        if at.is_integer() and at < 9:
            assert np.array_equal(frame, frames[int(at)])
    # Half-way between two frames that are 4 pixels apart, what is seen has moved by 2.
    wide = texture(0, 160 + 36)
    middle = made(frames[:2], 48)[1]
    assert np.abs(middle[:, 16:-16].astype(int) - wide[:, 2 + 16 : 2 + 144]).mean() < 3
    blended = (frames[0].astype(int) + frames[1]) // 2
    assert np.abs(blended[:, 16:-16] - wide[:, 2 + 16 : 2 + 144]).mean() > 5


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_scenes_are_not_mixed(seed):
    frames = np.concatenate([sliding(3, 2), sliding(3, 2, seed)])
    shown = made(frames, 60)
    # Moments between frame 2 and frame 3 show one or the other as it is.
    for index in (6, 7):
        assert any(np.array_equal(shown[index], frames[i]) for i in (2, 3))


def test_the_number_of_threads_does_not_count():
    threads, results = cv2.getNumThreads(), []
    try:
        for count in (1, 2, 5):
            cv2.setNumThreads(count)
            results.append(made(sliding(4, 3), 60))
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_the_last_frame_stays_to_the_end(num_frames):
    frames = sliding(num_frames, 2)
    shown = made(frames, 60)
    assert len(shown) == -(-num_frames * 60 // 24) and np.array_equal(shown[-1], frames[-1])


def test_an_enlarged_picture_shows_what_it_was_made_from():
    """Shrunk again it is the picture, much nearer than a bicubic one; and it is nearer to the real larger one."""
    blocks = np.random.default_rng(0).integers(0, 256, (32, 54, 3), np.uint8)
    real = cv2.resize(blocks, (324, 192), interpolation=cv2.INTER_NEAREST)[:, 3:-1]
    small = resize_to(real[None], (160, 96))[0]
    larger, plain = (enlarge(small, (320, 192)) for enlarge in (back_projected, bicubic))

    def error(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(one.astype(int) - other).mean())

    assert error(resize_to(larger[None], (160, 96))[0], small) < 0.6 * error(
        resize_to(plain[None], (160, 96))[0], small
    )
    assert error(larger, real) < error(plain, real)


@pytest.mark.parametrize("size", [(320, 180), (96, 96), (160, 90), (1280, 720), (90, 160)])
def test_every_size_is_filled(size):
    frames = sliding(2, 2)
    brought = bring_to(frames, size)
    assert brought.shape == (2, size[1], size[0], 3) and brought.dtype == np.uint8
    # Brightness is that of the middle, which is what is left.
    assert abs(int(brought[0].mean()) - int(frames[0].mean())) < 12
