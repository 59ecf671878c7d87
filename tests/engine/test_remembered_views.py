"""Worlds that remember what one turns away from, played by the shipped weights."""

import numpy as np
import torch

from gamegen.controls import Control
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.latent_decoder import LatentDecoder
from gamegen.engine.snapshot import WorldSnapshot
from gamegen.world import World

TURN = [set()] * 2 + [{"right"}] * 9 + [set()] + [{"left"}] * 9 + [set()]
BEFORE, BACK = 1, len(TURN) - 1


def played(world: World, keys: list[set[str]]) -> np.ndarray:
    """Frames `(chunks, 4, H, W, 3)`."""
    return np.stack([world.step(Control(held)) for held in keys])


def change(frames: np.ndarray) -> float:
    """How much the view after differs from the one before, in steps of 8 bits."""
    return float(np.abs(frames[BACK, -1].astype(float) - frames[BEFORE, -1]).mean())


def test_a_world_is_there_again_when_one_turns_back():
    changes = []
    for model in ("nano", "nano:view_memory=false"):
        world = World.load(model)
        world.reset("a desert at noon", seed=20, start="gallery")
        changes.append(change(played(world, TURN)))
    assert changes[0] < 0.6 * changes[1]


def test_a_restored_world_remembers_and_so_does_a_decoder_elsewhere():
    world, other = World.load("nano"), World.load("nano")
    world.reset("a desert at noon", seed=20, start="gallery")
    played(world, TURN[:14])
    snapshot = world.snapshot()
    assert len(snapshot.memory.views) > 2
    other.restore(WorldSnapshot.from_bytes(snapshot.to_bytes()))
    decoder, engine = LatentDecoder(world.engine.model), world.engine
    previous = snapshot.chunks[-1].latent
    for held in TURN[14:]:
        operations = Control(held).operations()
        latent = torch.from_numpy(engine.step({World.SESSION: operations})[World.SESSION])
        parts = decoder.decode_in_parts([latent], [previous], engine.reference(World.SESSION))
        elsewhere, previous = torch.cat([part[0] for part in parts]), latent
        frames = engine.frames(World.SESSION)
        assert np.array_equal(frames, other.step(Control(held)))
        assert np.array_equal(frames, elsewhere)


def test_worlds_remember_each_for_itself():
    engine = WorldEngine.load("nano", config=EngineConfig(max_sessions=2, rows=1))
    lone, text = World.load("nano"), World.load("nano").text_encoder
    prompt = text.encode(["a desert at noon"])[0]
    engine.open("a", prompt, seed=1)
    engine.open("b", prompt, seed=2)
    lone.engine.open(World.SESSION, prompt, seed=1)
    for held in TURN[:16]:
        operations = Control(held).operations()
        engine.step({"a": operations, "b": Control({"w"}).operations()})
        frames = lone.step(Control(held))
        assert np.array_equal(engine.frames("a"), frames)


def test_the_camera_is_where_it_was_when_one_has_turned_back():
    world = World.load("nano")
    world.reset("a desert at noon", seed=20, start="gallery")
    played(world, TURN[:11])
    away = heading_deg(world)
    played(world, TURN[11:])
    assert 83 < away < 89 and abs(heading_deg(world)) < 0.5


def heading_deg(world: World) -> float:
    """Degrees to the right of where the world began."""
    forward = world.snapshot().memory.rotation.T[:, 2]
    return float(torch.rad2deg(torch.atan2(forward[0], forward[2])))
