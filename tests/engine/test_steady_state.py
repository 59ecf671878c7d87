"""After its first chunks an engine allocates nothing that stays and compiles nothing, whoever joins and leaves."""

from __future__ import annotations

import gc

import numpy as np
import onnxruntime
import pytest
import torch

from gamegen.controls import Control
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.frame_pass import CompiledFramePass, FramePass
from gamegen.engine.latent_decoder import LatentDecoder, StreamPast
from gamegen.models.network_inputs import VideoFormat
from tests.engine.test_world import random_model, words
from tests.models.test_onnx import compiled_model

CHUNKS = 24


def kept_bytes() -> int:
    """Bytes of all tensors that somebody still holds."""
    gc.collect()
    return sum(thing.nbytes for thing in gc.get_objects() if type(thing) is torch.Tensor)


def graphs() -> int:
    """How many graphs `torch.compile` has made."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def play_in_turns(engine: WorldEngine, decoder: LatentDecoder, number: int) -> None:
    """One player is there throughout, two others join and leave; one of them has words come in, and a video."""
    operations = Control({"w"}).operations()
    memory: dict[str, torch.Tensor | None] = {}
    for t in range(CHUNKS):
        if t % 8 == 0:
            for guest in (f"guest {t % 16}", "other"):
                engine.close(guest)
            engine.open(f"guest {t % 16}", words(number + t), t)
        if t % 8 == 4:
            engine.open("other", words(number + t + 1), t)
            engine.instruct("other", words(number + t + 2), blend_chunks=5)
            engine.prompt_video("other", torch.randn(2, *engine.latent_shape))
        playing = [
            name for name in ("host", "guest 0", "guest 8", "other") if engine.version(name) is not None
        ]
        drawn = engine.step(dict.fromkeys(playing, operations))
        latents = [torch.from_numpy(drawn[name]) for name in playing]
        pasts = [StreamPast(memory.get(name)) for name in playing]
        decoder.decode(latents, pasts, [operations] * len(playing))
        memory = dict(zip(playing, latents, strict=True))
        engine.commit()
    for name in ("guest 0", "guest 8", "other"):
        engine.close(name)


def engine_of(how: str) -> WorldEngine:
    """Drawn by the networks themselves, by ONNX Runtime, or by `torch.compile` without its slow stages."""
    engine = WorldEngine(compiled_model() if how == "onnx" else random_model(), EngineConfig(max_sessions=4))
    if how == "torch.compile":
        width, height = engine.size
        video_format = VideoFormat(aspect_ratio=width / height)
        networks = FramePass(engine.foundation, engine.instructnet, video_format).eval()
        engine.runner.frame_pass = CompiledFramePass.by_torch(networks, backend="eager")
    return engine


@pytest.mark.parametrize("how", ["pytorch", "onnx", pytest.param("torch.compile", marks=pytest.mark.long)])
def test_nothing_accumulates_and_nothing_is_compiled_in_steady_state(how, monkeypatch):
    engine = engine_of(how)
    decoder = LatentDecoder(engine.model)
    engine.open("host", words(1), 1)
    rings = [(ring.keys.data_ptr(), ring.values.data_ptr()) for ring in engine.runner.caches.rings]
    for number in range(2):
        play_in_turns(engine, decoder, number)
    compiled: list[object] = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *args, **named: compiled.append(args) or session(*args, **named),
    )
    before, compilations = kept_bytes(), graphs()
    for number in range(2, 5):
        play_in_turns(engine, decoder, number)
    # Texts are of several lengths, and the engine keeps a few of them.
    assert kept_bytes() <= before + 64 * 1024
    assert not compiled
    assert graphs() == compilations
    assert [(ring.keys.data_ptr(), ring.values.data_ptr()) for ring in engine.runner.caches.rings] == rings


def test_worlds_by_torch_compile_are_the_same_worlds():
    operations = Control({"w"}).operations()
    direct, compiled = engine_of("pytorch"), engine_of("torch.compile")
    for engine in (direct, compiled):
        engine.open("a", words(1), 1)
    for _ in range(4):
        expected, found = (engine.step({"a": operations})["a"] for engine in (direct, compiled))
        np.testing.assert_allclose(found, expected, atol=5e-3)
