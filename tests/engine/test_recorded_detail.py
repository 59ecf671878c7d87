"""Worlds that walk towards recorded pictures and turn to them, played by the shipped weights."""

import cv2
import numpy as np
import pytest

from gamegen.controls import Control
from gamegen.engine.snapshot import WorldSnapshot
from gamegen.world import World

SECONDS = 4
MODELS = ("nano", "nano:exemplars=false")


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    """With recorded pictures and without; a test begins anew in them."""
    return {model: World.load(model) for model in MODELS}


def walked(world: World, chunks: int) -> np.ndarray:
    """The last frame."""
    for _ in range(chunks):
        frames = world.step(Control({"w"}))
    return frames[-1]


def detail(frame: np.ndarray) -> float:
    """Mean difference of the ground left of the held tool from itself, blurred."""
    ground = frame[52:88, :100].astype(np.float32)
    return float(np.abs(ground - cv2.blur(ground, (5, 5))).mean())


def test_where_one_walks_there_is_detail(worlds):
    found = []
    for world in (worlds[model] for model in MODELS):
        world.reset("jungle by day", seed=2, start="gallery")
        found.append(detail(walked(world, 6 * SECONDS)))
    assert found[0] > 2 * found[1]


def test_where_one_turns_there_is_something_to_see(worlds):
    found = []
    for world in (worlds[model] for model in MODELS):
        world.reset("grassland at noon", seed=3, start="gallery")
        found.append(detail([world.step(Control({"right"})) for _ in range(2 * SECONDS + 4)][-1][-1]))
    assert found[0] > 1.5 * found[1]


def test_restored_is_uninterrupted_while_one_walks_and_turns(worlds):
    world, other = worlds["nano"], World.load("nano")
    world.reset("jungle by day", seed=2, start="gallery")
    walked(world, 14)
    world.step(Control({"right"}))
    other.restore(WorldSnapshot.from_bytes(world.snapshot().to_bytes()))
    for keys in ({"right"}, {"right"}, {"w"}, {"w", "left"}, {"w"}):
        assert np.array_equal(world.step(Control(keys)), other.step(Control(keys)))


def test_an_order_still_changes_the_world(worlds):
    world = worlds["nano"]
    world.reset("grassland at noon", seed=3, start="gallery")
    before = walked(world, 6)
    world.instruct("make it night")
    assert walked(world, 12).mean() < 0.8 * before.mean()
    # Nor does it come back when pictures are taken again.
    assert walked(world, 12).mean() < 0.8 * before.mean()


def test_a_world_at_rest_stays_as_it_is(worlds):
    """Without recorded pictures it is drawn again and again."""
    changes = []
    for world in (worlds[model] for model in MODELS):
        world.reset("jungle by day", seed=2, start="gallery")
        shown = np.stack([world.step(Control())[-1] for _ in range(3 * SECONDS)]).astype(np.float32)
        changes.append(np.abs(shown[-1] - shown[0]).mean())
    assert changes[0] < 0.6 * changes[1]


def test_a_picture_that_changes_too_much_is_taken_back_if_the_model_is_asked_to(worlds, monkeypatch):
    """All of them are, where footage is said to change by next to nothing, and none where it may change at will."""
    limited = World.load("nano:limits_change=true")
    found = []
    for world, limit in ((worlds["nano"], 1e-3), (limited, 1e-3), (limited, 1e6)):
        monkeypatch.setattr("gamegen.models.change_limit._LIMIT_AT_ZERO", limit)
        monkeypatch.setattr("gamegen.models.change_limit._MOST", limit)
        world.reset("jungle by day", seed=2, start="gallery")
        found.append(walked(world, 4).astype(np.float32))
    plain, taken_back, free = found
    assert np.abs(plain - taken_back).mean() > 1
    assert np.array_equal(plain, free)
