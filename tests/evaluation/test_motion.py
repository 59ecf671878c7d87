"""Known answers for motion and tones, and pans, zooms and stills that obey their keys."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from gamegen.evaluation import motion
from gamegen.evaluation.motion import KEYS, motion_of, obeyed
from tests.footage_samples import panning_frames


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


def zooming_frames(num_frames: int = 8) -> np.ndarray:
    """A picture that grows by 3 % a frame, as when walking towards it."""
    picture = panning_frames(1)[0]
    height, width = picture.shape[:2]
    scales = [cv2.getRotationMatrix2D((width / 2, height / 2), 0, 1.03**i) for i in range(num_frames)]
    return np.stack([cv2.warpAffine(picture, matrix, (width, height)) for matrix in scales])


VIDEOS = {
    # The camera pans right, so the picture moves left: what turning right looks like.
    "right": panning_frames(8),
    "left": panning_frames(8)[::-1],
    "forward": zooming_frames(),
    "still": np.repeat(panning_frames(1), 8, 0),
}


def worlds(**shown: str) -> dict[str, np.ndarray]:
    """One world that shows the named video under each action."""
    motions: dict[str, np.ndarray] = {}
    for action in KEYS:
        motions |= motion_of(action, VIDEOS[shown.get(action, action)])
    return {name: value[None] for name, value in motions.items()}


def test_an_obedient_world_obeys_every_action():
    assert {action: bool(did[0]) for action, did in obeyed(worlds()).items()} == dict.fromkeys(KEYS, True)


@pytest.mark.parametrize(
    ("action", "shown"), [("left", "right"), ("right", "left"), ("still", "forward"), ("left", "still")]
)
def test_the_wrong_motion_does_not_count(action, shown):
    did = obeyed(worlds(**{action: shown}))
    assert not did.pop(action)[0]
    assert all(other[0] for other in did.values())
