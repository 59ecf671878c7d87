"""What a session's frames owe to the others in its batch: nothing at a fixed shape, rounding at another."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from gamegen.controls import Control
from gamegen.engine.engine import WorldEngine
from gamegen.engine.frame_pass import CompiledFramePass, DirectFramePass
from gamegen.models.model import Model
from tests.engine.test_world import random_model, words
from tests.models.test_onnx import compiled_model

CHUNKS = 8
ROUNDING = 2e-3
"""How far normalised latents, whose deviation is about 1, may lie apart after `CHUNKS` chunks in batches of other
sizes: products of matrices of other shapes are summed in another order, and what is drawn is rounded to float16."""
PASSES = {"pytorch": random_model, "onnx": compiled_model, "moving": partial(random_model, moves=True)}


def play(model: Model, others: tuple[int, ...], place: int = 1) -> np.ndarray:
    """Chunks of one session, which stands at some place of a batch with others that are told and do other things."""
    engine = WorldEngine(model)
    expected = DirectFramePass if model.may_compile is False else CompiledFramePass
    assert isinstance(engine.runner.frame_pass, expected)
    names = [*map(str, others)]
    names.insert(place, "a")
    for name in names:
        seed = 3 if name == "a" else int(name)
        engine.open(name, words(seed), seed)
    chunks = []
    for t in range(CHUNKS):
        controls = {
            name: Control({"w"} if t % 3 else {"a", "left"})
            if name == "a"
            else Control({"s"}, yaw_deg=int(name) / 10)
            for name in names
        }
        if t == 2:
            engine.instruct("a", words(9), blend_chunks=2)
        for name in names:
            if name != "a" and t == 2 + int(name) % 4:
                engine.instruct(name, words(10 + int(name)))
        drawn = engine.step({name: control.operations() for name, control in controls.items()})
        chunks.append(drawn["a"])
    return np.stack(chunks)


@pytest.mark.parametrize("how", PASSES)
def test_in_a_batch_of_one_shape_a_session_is_the_same_whoever_shares_it(how):
    """To the last bit, on the CPU. The length of the longest text is part of the shape."""
    first, second = (torch.from_numpy(play(PASSES[how](), others)) for others in ((11, 12, 13), (24, 35, 46)))
    assert torch.equal(first, second)


@pytest.mark.parametrize("how", ["pytorch", "onnx"])
def test_in_batches_of_other_sizes_a_session_differs_by_rounding(how):
    lone = play(PASSES[how](), (), place=0).astype(np.float32)
    for others in ((11,), (11, 12, 13)):
        together = play(PASSES[how](), others).astype(np.float32)
        assert np.abs(together - lone).max() <= ROUNDING
