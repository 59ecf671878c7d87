"""Do pans, zooms and stills count as the actions that they are?"""

import cv2
import numpy as np
import pytest

from gamegen.evaluation.actions import KEYS, motion_of, obeyed
from tests.footage_samples import panning_frames


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
