"""What pictures are refused, and above all which are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gamegen.safety.nsfw import NsfwChecker
from gamegen.safety.settings import SafetySettings
from gamegen.video import read_mp4

REPOSITORY = Path(__file__).parent.parent.parent
SETTINGS = SafetySettings()


@pytest.fixture(scope="module")
def checker() -> NsfwChecker:
    return NsfwChecker(SETTINGS)


def test_a_drawn_world_passes(checker):
    sheet = np.array(Image.open(REPOSITORY / "docs" / "world.png").convert("RGB"))
    height, width = sheet.shape[0] // 2, sheet.shape[1] // 4
    frames = np.stack(
        [sheet[y : y + height, x : x + width] for y in (0, height) for x in range(0, 4 * width, width)]
    )
    verdict = checker.check("frames", frames)
    assert verdict.is_allowed and verdict.score < SETTINGS.nsfw_threshold / 2 and verdict.reason is None


@pytest.mark.parametrize("name", ["forward", "night", "third", "third-turn"])
def test_footage_of_games_passes(name, checker):
    frames = read_mp4(REPOSITORY / "tests" / "data" / "clips" / f"{name}.mp4")
    verdict = checker.check("source", frames)
    assert verdict.is_allowed and verdict.score < SETTINGS.nsfw_threshold / 2
