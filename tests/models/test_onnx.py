"""Compiled networks: what they draw, which graphs are used, and which are not."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear

from gamegen.controls import Control
from gamegen.engine import latent_decoder
from gamegen.engine.conditioning import idle_operations
from gamegen.engine.engine import WorldEngine
from gamegen.engine.frame_pass import CompiledFramePass, DirectFramePass
from gamegen.engine.latent_decoder import LatentDecoder, StreamPast
from gamegen.engine.motion_prediction import build_motion_prediction
from gamegen.engine.variants import Variant
from gamegen.models import onnx
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.model import Model, ModelConfig
from gamegen.models.onnx import CompiledModule
from tests.engine.test_world import random_model, words


def compiled_model() -> Model:
    model = random_model()
    model.may_compile = None
    return model


def play(model: Model, seeds: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Chunks of worlds that are played together; the first joins late and is told something."""
    engine = WorldEngine(model)
    assert isinstance(
        engine.runner.frame_pass, DirectFramePass if model.may_compile is False else CompiledFramePass
    )
    chunks: dict[int, list[np.ndarray]] = {seed: [] for seed in seeds}
    for t in range(6):
        if t == 0:
            for seed in seeds[1:]:
                engine.open(str(seed), words(seed, length=seed), seed)
        if t == 2:
            engine.open(str(seeds[0]), words(seeds[0]), seeds[0])
        if t == 3:
            engine.instruct(str(seeds[0]), words(8), blend_chunks=4)
        if t == 4:
            engine.instruct(str(seeds[0]), words(9, length=7), blend_chunks=1)
        playing = seeds if t >= 2 else seeds[1:]
        control = Control({"w"} if t % 2 else {"left"})
        for name, latent in engine.step({str(seed): control.operations() for seed in playing}).items():
            chunks[int(name)].append(latent)
    return {seed: np.stack(latents).astype(np.float32) for seed, latents in chunks.items()}


def test_compiled_worlds_are_the_same_worlds():
    expected, found = play(random_model(), (3, 4, 7)), play(compiled_model(), (3, 4, 7))
    for seed, latents in expected.items():
        np.testing.assert_allclose(found[seed], latents, atol=5e-3)


def test_compiled_worlds_with_motion_are_the_same_worlds():
    model = random_model(moves=True)
    model.may_compile = None
    assert isinstance(build_motion_prediction(model, model.config.latent_shape), CompiledModule)
    expected, found = play(random_model(moves=True), (3, 4)), play(model, (3, 4))
    for seed, latents in expected.items():
        np.testing.assert_allclose(found[seed], latents, atol=5e-3)


def test_a_compiled_world_does_not_depend_on_who_is_drawn_with_it():
    alone, together = play(compiled_model(), (4, 5)), play(compiled_model(), (4, 5, 6))
    np.testing.assert_allclose(together[5], alone[5], atol=2e-3)


def test_a_compiled_decoder_shows_the_same_frames(in_float32):
    latents = [torch.randn(4, 4, 4) for _ in range(3)]
    pasts = [StreamPast(), StreamPast(latents[0]), StreamPast(latents[1])]
    operations = [idle_operations()] * 3
    expected = LatentDecoder(random_model()).decode(latents, pasts, operations)
    decoder = LatentDecoder(compiled_model())
    assert decoder.is_compiled
    difference = decoder.decode(latents, pasts, operations).int() - expected.int()
    assert difference.abs().max() <= 1


def test_the_shipped_world_comes_with_its_graphs(in_float32, monkeypatch, tmp_path):
    """If this fails, the networks have changed: gamegen compile nano --output gamegen/weights/graphs"""
    monkeypatch.setenv("GAMEGEN_CACHE", str(tmp_path))
    model = Variant.parse("nano").load("cpu")
    assert isinstance(WorldEngine(model).runner.frame_pass, CompiledFramePass)
    assert LatentDecoder(model).is_compiled


class Doubler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def doubled(module: nn.Module, may_export: bool) -> onnx.CompiledModule | None:
    return onnx.compiled("doubler", module, [torch.zeros(2, 3)], [(0,)], may_export)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GAMEGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_graph_is_exported_once_for_all_weights(cache, monkeypatch):
    module = Doubler()
    assert doubled(module, may_export=False) is None
    assert doubled(module, may_export=True) is not None
    assert [file.suffix for file in sorted(cache.iterdir())] == [".onnx", ".lock"]
    monkeypatch.setattr(onnx, "_export", None)
    with torch.no_grad():
        module.scale.fill_(5)
    found = doubled(module, may_export=False)
    assert found is not None
    assert found(torch.ones(4, 3))[0].tolist() == [[5.0] * 3] * 4


class Adder(Doubler):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale


def test_a_graph_of_other_code_is_not_used_but_replaced(cache, caplog):
    doubled(Doubler(), may_export=True)
    with caplog.at_level("WARNING"):
        assert doubled(Adder(), may_export=False) is None
    assert "computes something else" in caplog.text
    found = doubled(Adder(), may_export=True)
    assert found is not None and found(torch.ones(1, 3))[0].tolist() == [[3.0] * 3]


def test_a_new_graph_goes_before_a_shipped_one_of_other_code(cache, monkeypatch, tmp_path):
    doubled(Doubler(), may_export=True)
    monkeypatch.setattr(onnx, "GRAPHS_FOLDER", cache)
    monkeypatch.setenv("GAMEGEN_CACHE", str(tmp_path / "other"))
    assert doubled(Adder(), may_export=True) is not None
    assert doubled(Adder(), may_export=False) is not None
    assert doubled(Doubler(), may_export=False) is not None


def test_only_so_many_graphs_are_kept(cache, monkeypatch):
    doubled(Doubler(), may_export=True)
    first = next(cache.glob("*.onnx"))
    monkeypatch.setattr(onnx, "KEPT_GRAPHS", 2)
    for i in range(3):
        shutil.copy(first, cache / f"other{i}.onnx")
    wide = [torch.zeros(2, 5)]
    assert onnx.compiled("doubler", Doubler(), wide, [(0,)], True) is not None
    assert len(list(cache.glob("*.onnx"))) == 2


def test_what_cannot_be_compiled_is_played_as_it_is(tiny_model):
    assert Variant.parse(f"{tiny_model}:precision=bfloat16").load("cpu").may_compile is False
    assert Variant.parse(f"{tiny_model}:compiled=false").load("cpu").may_compile is False
    assert load_checkpoint(tiny_model, "cpu").model.may_compile is False
    with pytest.raises(ValueError, match="compiled models need float32 or int8 on a CPU"):
        Variant.parse(f"{tiny_model}:precision=bfloat16,compiled=true").load("cpu")
    with pytest.raises(ValueError, match="compiled = 'often' must be true or false"):
        Variant.parse(f"{tiny_model}:compiled=often")
    model = Model(ModelConfig(vae=ModelConfig.tiny().vae)).eval()
    assert model.may_compile is False


def test_int8_is_compiled_where_a_graph_is_kept(tiny_model, caplog):
    model = Variant.parse(f"{tiny_model}:precision=int8").load("cpu")
    assert model.may_compile is None and "foundation.blocks.0.mlp.up" in model.int8_layers
    model = Variant.parse(f"{tiny_model}:precision=int8,size=64x32").load("cpu")
    assert model.may_compile is False
    assert {type(module) for _, module in model.foundation.named_modules()} & {DynamicLinear}


def test_decoders_are_not_compiled_where_bfloat16_is_quicker(monkeypatch):
    monkeypatch.setattr(latent_decoder, "compute_dtype", lambda device: torch.bfloat16)
    decoder = LatentDecoder(compiled_model())
    assert not decoder.is_compiled
    frames = decoder.decode([torch.randn(4, 4, 4)], [StreamPast()], [idle_operations()])
    assert frames.dtype == torch.uint8 and frames.float().std() > 0


def test_a_model_is_compiled_by_command(gamegen, tiny_model):
    done = gamegen("compile", str(tiny_model))
    assert done.returncode == 0
    assert "graphs" in done.stdout
