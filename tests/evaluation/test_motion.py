"""Known answers for the motion measures."""

import numpy as np
import pytest
from scipy import ndimage

from gamegen.evaluation import motion


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    noise = np.random.default_rng(0).random((140, 220))
    return ndimage.gaussian_filter(noise, 3)


def video(pictures) -> np.ndarray:
    stack = np.stack(list(pictures))
    scaled = (stack - stack.min()) / (stack.max() - stack.min()) * 255
    return np.repeat(scaled[..., None], 3, -1).astype(np.uint8)


def test_a_picture_shifted_right_flows_right(picture):
    frames = video(picture[20:116, 40 - 2 * i : 200 - 2 * i] for i in range(5))
    flow = motion.optical_flow(frames)
    assert motion.horizontal_flow_px(flow) == pytest.approx(2, abs=0.3)
    assert motion.speed_px(flow) == pytest.approx(2, abs=0.4)
    assert abs(motion.expansion(flow)) < 0.003


def test_zooming_in_expands(picture):
    def zoom(factor: float) -> np.ndarray:
        big = ndimage.zoom(picture, factor, order=1)
        y, x = (big.shape[0] - 96) // 2, (big.shape[1] - 160) // 2
        return big[y : y + 96, x : x + 160]

    flow = motion.optical_flow(video(zoom(1.1 * 1.02**i) for i in range(5)))
    assert motion.expansion(flow) == pytest.approx(0.02, abs=0.006)


def test_detail_brightness_warmth():
    flat = np.full((2, 8, 8, 3), 100, np.uint8)
    assert motion.detail(flat) == 0
    assert motion.brightness(flat) == pytest.approx(100)
    sand = flat.copy()
    sand[..., 2] = 40
    assert motion.warmth(sand) > 0.5 and motion.warmth(flat) == 0
