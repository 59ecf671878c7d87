"""What pictures are refused, and above all which are not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gamegen.evaluation.real_clips import SHIPPED_CLIPS
from gamegen.media.mp4 import read_mp4
from gamegen.pipeline import VideoPipeline
from gamegen.service.safety.checks import SafetyChecks
from gamegen.service.safety.nsfw import NsfwChecker
from gamegen.service.safety.settings import SafetySettings

REPOSITORY = Path(__file__).parents[3]
SETTINGS = SafetySettings()
SKIN = np.array([225, 172, 140])


@pytest.fixture(scope="module")
def checker() -> NsfwChecker:
    return NsfwChecker(SETTINGS)


@pytest.fixture(scope="module")
def nano() -> VideoPipeline:
    return VideoPipeline.load("nano")


def blurred_ellipses() -> np.ndarray:
    """Shapes in the colours of skin that show nothing at all, and that the network takes for a body."""
    random = np.random.default_rng(63)
    picture = np.full((256, 256, 3), random.integers(0, 256, 3), np.uint8)
    for _ in range(int(random.integers(4, 14))):
        colour = np.minimum(255, SKIN * random.uniform(0.6, 1.05)).astype(int).tolist()
        centre = int(random.integers(30, 226)), int(random.integers(30, 226))
        axes = int(random.integers(12, 90)), int(random.integers(12, 90))
        cv2.ellipse(picture, centre, axes, float(random.integers(0, 180)), 0, 360, colour, -1)
    return cv2.GaussianBlur(picture, (0, 0), float(random.uniform(2, 9)))


def assert_far_from_refused(checker: NsfwChecker, subject: str, frames: np.ndarray) -> None:
    verdict = checker.check(subject, frames)
    assert verdict.is_allowed and verdict.reason is None
    assert verdict.score < SETTINGS.nsfw_threshold / 2


def test_the_world_of_the_readme_passes(checker):
    sheet = np.array(Image.open(REPOSITORY / "docs" / "world.png").convert("RGB"))
    height, width = sheet.shape[0] // 2, sheet.shape[1] // 4
    corners = [(y, x) for y in (0, height) for x in range(0, 4 * width, width)]
    frames = np.stack([sheet[y : y + height, x : x + width] for y, x in corners])
    assert_far_from_refused(checker, "frames", frames)


@pytest.mark.parametrize(
    ("prompt", "perspective"),
    [("red rock canyon", "first"), ("desert at sunset", "third"), ("beach and sea, bright sun", "third")],
)
def test_what_nano_draws_passes(prompt, perspective, checker, nano):
    assert_far_from_refused(
        checker, "frames", nano.generate(prompt, num_frames=8, seed=1, perspective=perspective)
    )


@pytest.mark.parametrize("name", ["forward", "night", "third", "third-turn"])
def test_footage_of_games_passes(name, checker):
    frames = read_mp4(SHIPPED_CLIPS / f"{name}.mp4")
    assert_far_from_refused(checker, "source", frames)


def test_a_picture_taken_for_a_body_is_refused(checker):
    verdict = checker.check("image", blurred_ellipses()[None])
    assert not verdict.is_allowed and verdict.score >= verdict.threshold == 0.8
    assert (verdict.subject, verdict.checker) == ("image", "nsfw")
    assert verdict.reason == "sexual content in frame 0"


def test_one_frame_of_a_video_is_enough_if_it_is_looked_at(checker):
    frames = np.zeros((100, 256, 256, 3), np.uint8)
    frames[80:] = blurred_ellipses()
    verdict = checker.check("frames", frames)
    assert not verdict.is_allowed and verdict.reason == "sexual content in frame 85"
    # Between two of the eight that are looked at.
    frames[:] = 0
    frames[2:12] = blurred_ellipses()
    assert checker.check("frames", frames).is_allowed
    assert not NsfwChecker(SafetySettings(num_sampled_frames=16)).check("frames", frames).is_allowed


def test_a_clip_shorter_than_the_sample_is_looked_at_whole():
    checks = SafetyChecks(SafetySettings(num_sampled_frames=256))
    frames = np.zeros((3, 64, 96, 3), np.uint8)
    frames[1] = cv2.resize(blurred_ellipses(), (96, 64))
    (verdict,) = checks.check_frames("frames", frames)
    assert verdict.reason == "sexual content in frame 1"
