"""Worlds that follow a video prompt: for as long as it lasts, whoever else is drawn, and wherever they go on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gamegen.controls import Control
from gamegen.engine.engine import WorldEngine
from gamegen.engine.frame_pass import CompiledFramePass
from gamegen.engine.snapshot import WorldSnapshot
from gamegen.media.prompt_pictures import MAX_PROMPT_CHUNKS
from gamegen.models.model import Model
from gamegen.world import World
from tests.engine.test_world import random_model, words
from tests.models.test_onnx import compiled_model

CHUNKS = 9
MODELS = {"pytorch": random_model, "onnx": compiled_model}


def prompt(seed: int, length: int) -> torch.Tensor:
    return torch.randn(length, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def untrained_model() -> Model:
    """One that never saw a video prompt."""
    model = random_model()
    with torch.no_grad():
        model.instructnet.video_in.weight.zero_()
    return model


def play(engine: WorldEngine, names: str, start: int = 0, stop: int = CHUNKS) -> dict[str, np.ndarray]:
    """Chunks of sessions that are played together; `v` and `w` follow videos for a while, `a` never does."""
    if not start:
        for seed, name in enumerate(names):
            engine.open(name, words(seed), seed=ord(name))
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for t in range(start, stop):
        if t == 2 and "v" in names:
            engine.prompt_video("v", prompt(1, 4))
        if t == 0 and "w" in names:
            engine.prompt_video("w", prompt(2, 3))
        for name, latent in engine.step({name: Control({"w"}).operations() for name in names}).items():
            chunks[name].append(latent)
    return {name: np.stack(latents).astype(np.float32) for name, latents in chunks.items()}


def test_a_video_prompt_steers_its_chunks_and_ends_by_itself():
    engine, silent = WorldEngine(random_model()), WorldEngine(random_model())
    silent.prompt_video = lambda *_: None  # type: ignore[method-assign]
    steered, free = play(engine, "v")["v"], play(silent, "v")["v"]
    np.testing.assert_array_equal(steered[:2], free[:2])
    assert np.abs(steered[2] - free[2]).max() > 0.01
    remembered = engine.snapshot("v").chunks
    steered_ones = [2 <= t < 6 for t in range(CHUNKS)][-len(remembered) :]
    assert [chunk.conditioning.video is not None for chunk in remembered] == steered_ones
    assert not engine.snapshot("v").videos
    engine.prompt_video("v", prompt(3, 5))
    engine.prompt_video("v", None)
    assert not engine.snapshot("v").videos


@pytest.mark.parametrize("how", MODELS)
def test_some_of_a_batch_follow_videos(how):
    together = play(WorldEngine(MODELS[how]()), "avw")
    by_networks = play(WorldEngine(random_model()), "avw")
    for name in "avw":
        np.testing.assert_allclose(together[name], by_networks[name], atol=5e-3)


def test_a_session_without_a_video_is_as_without_those_who_have_one():
    alone, together = (play(WorldEngine(random_model()), names)["a"] for names in ("a", "avw"))
    np.testing.assert_allclose(together, alone, atol=2e-3)


def test_the_graph_draws_everybody_who_follows_no_video():
    engine = WorldEngine(compiled_model())
    by_graph, graph = [], engine.runner.frame_pass
    assert isinstance(graph, CompiledFramePass)
    engine.runner.frame_pass = lambda x, *rest: by_graph.append(len(x)) or graph(x, *rest)
    play(engine, "aw", 0, 1)
    engine.commit()
    passes = engine.sampling.first_steps + 1
    assert by_graph == [1] * passes
    play(engine, "aw", 3, 6)
    engine.commit()
    assert set(by_graph[-engine.sampling.num_steps - 1 :]) == {2}


@pytest.mark.parametrize("how", MODELS)
@pytest.mark.parametrize("at", [2, 4, 7])
def test_a_snapshot_amid_a_video_continues_bit_for_bit(how, at):
    model = MODELS[how]()
    engine, other, forgetful = WorldEngine(model), WorldEngine(model), WorldEngine(model)
    play(engine, "v", 0, at)
    snapshot = WorldSnapshot.from_bytes(engine.snapshot("v").to_bytes())
    other.restore("v", snapshot)
    expected = play(engine, "v", at, CHUNKS)["v"]
    np.testing.assert_array_equal(play(other, "v", at, CHUNKS)["v"], expected)
    if at == 7:
        # What is cached depends on the video that is over.
        blind = [
            dataclasses.replace(chunk, conditioning=dataclasses.replace(chunk.conditioning, video=None))
            for chunk in snapshot.chunks
        ]
        forgetful.restore("v", dataclasses.replace(snapshot, chunks=blind))
        assert np.abs(play(forgetful, "v", at, CHUNKS)["v"] - expected).max() > 1e-3


def test_what_no_world_can_follow_is_refused():
    engine = WorldEngine(random_model())
    engine.open("a", words(1), seed=3)
    for latents, message in (
        (torch.zeros(3, 4, 4, 8), r"have shape \(3, 4, 4, 8\)"),
        (torch.zeros(4, 4, 4), "have shape"),
        (torch.zeros(0, 4, 4, 4), "has 0 chunks"),
        (torch.zeros(MAX_PROMPT_CHUNKS + 1, 4, 4, 4), f"use 1 to {MAX_PROMPT_CHUNKS}"),
        (torch.full((1, 4, 4, 4), torch.nan), "NaN or infinity"),
        (torch.full((1, 4, 4, 4), 1e6), "NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.prompt_video("a", latents)
    engine = WorldEngine(untrained_model())
    engine.open("a", words(1), seed=3)
    with pytest.raises(ValueError, match="follows no video prompts"):
        engine.prompt_video("a", prompt(1, 2))


class Wordless:
    """Encodes nothing but one text."""

    def encode(self, texts):
        return [words(1) for _ in texts]


def test_a_world_follows_the_edges_of_a_video():
    world = World(WorldEngine(random_model()), Wordless())
    world.reset("meadow", seed=1)
    world.prompt_video(np.random.default_rng(0).integers(256, size=(9, 32, 32, 3), dtype=np.uint8), "canny")
    assert len(world.snapshot().videos) == 2
    assert world.step(Control()).shape == (4, 32, 32, 3)
    assert len(world.snapshot().videos) == 1
    world.prompt_video(None)
    assert not world.snapshot().videos
