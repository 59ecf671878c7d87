"""Worlds that remember what one turns away from, played by the shipped weights."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from gamegen.controls import Control
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.latent_decoder import LatentDecoder
from gamegen.engine.snapshot import WorldSnapshot
from gamegen.world import World

TURN = [set()] * 2 + [{"right"}] * 9 + [set()] + [{"left"}] * 9 + [set()]
BEFORE, AWAY, STOPPED, BACK = 1, 10, 13, len(TURN) - 1
"""Chunks before the turn, at its far end, amid it, and at its end."""


@dataclass(frozen=True)
class Played:
    """Frames `(chunks, 4, H, W, 3)` and the camera's heading in degrees after each chunk, and a snapshot amid them."""

    frames: np.ndarray
    headings_deg: list[float]
    snapshot: bytes


def played(world: World, keys: list[set[str]]) -> Played:
    """A desert in which those keys are held, a chunk each."""
    world.reset("a desert at noon", seed=20, start="gallery")
    frames, headings_deg, snapshot = [], [], b""
    for number, held in enumerate(keys):
        frames.append(world.step(Control(held)))
        headings_deg.append(heading_deg(world))
        if number == STOPPED:
            snapshot = world.snapshot().to_bytes()
    return Played(np.stack(frames), headings_deg, snapshot)


@pytest.fixture(scope="module")
def world() -> World:
    return World.load("nano")


@pytest.fixture(scope="module")
def turned(world: World) -> Played:
    """A turn away and back that nothing interrupts."""
    return played(world, TURN)


def change(frames: np.ndarray) -> float:
    """How much the view after differs from the one before, in steps of 8 bits."""
    return float(np.abs(frames[BACK, -1].astype(float) - frames[BEFORE, -1]).mean())


def test_a_world_is_there_again_when_one_turns_back(turned):
    forgets = played(World.load("nano:view_memory=false"), TURN)
    assert change(turned.frames) < 0.6 * change(forgets.frames)


def test_a_restored_world_remembers_and_so_does_a_decoder_elsewhere(turned):
    other, snapshot = World.load("nano"), WorldSnapshot.from_bytes(turned.snapshot)
    assert len(snapshot.memory.views) > 2
    other.restore(snapshot)
    decoder, engine = LatentDecoder(other.engine.model), other.engine
    previous = snapshot.chunks[-1].latent
    for held, uninterrupted in zip(TURN[STOPPED + 1 :], turned.frames[STOPPED + 1 :], strict=True):
        operations = Control(held).operations()
        latent = torch.from_numpy(engine.step({World.SESSION: operations})[World.SESSION])
        parts = decoder.decode_in_parts([latent], [previous], engine.reference(World.SESSION))
        elsewhere, previous = torch.cat([part[0] for part in parts]), latent
        assert np.array_equal(engine.frames(World.SESSION), uninterrupted)
        assert np.array_equal(elsewhere, uninterrupted)


def test_worlds_remember_each_for_itself(world, turned):
    engine = WorldEngine.load("nano", config=EngineConfig(max_sessions=2, rows=1))
    prompt = world.text_encoder.encode(["a desert at noon"])[0]
    world.engine.close(World.SESSION)
    engine.open("a", prompt, seed=1)
    engine.open("b", prompt, seed=2)
    world.engine.open(World.SESSION, prompt, seed=1)
    for held in TURN[:16]:
        operations = Control(held).operations()
        engine.step({"a": operations, "b": Control({"w"}).operations()})
        assert np.array_equal(engine.frames("a"), world.step(Control(held)))


def test_the_camera_is_where_it_was_when_one_has_turned_back(turned):
    assert 83 < turned.headings_deg[AWAY] < 89 and abs(turned.headings_deg[BACK]) < 0.5


def heading_deg(world: World) -> float:
    """Degrees to the right of where the world began."""
    forward = world.snapshot().memory.rotation.T[:, 2]
    return float(torch.rad2deg(torch.atan2(forward[0], forward[2])))
