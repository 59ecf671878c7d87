"""Graphs in int8: near float32, on machines with and without VNNI, and only the layers that are named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gamegen.engine.engine import WorldEngine
from gamegen.engine.frame_pass import CompiledFramePass
from gamegen.models import onnx
from gamegen.models.precision import layers_to_quantise
from tests.models.test_onnx import compiled_model, play


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 96), nn.Linear(96, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.silu(self.up(x)))


@pytest.fixture(scope="module")
def layers(tmp_path_factory) -> tuple[TwoLayers, onnx.CompiledModule]:
    torch.manual_seed(0)
    module = TwoLayers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAMEGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = onnx.compiled("layers", module, [torch.zeros(2, 5, 32)], [(0,)], may_export=True)
    assert found is not None
    return module, found


def sqnr_db(found: torch.Tensor, expected: torch.Tensor) -> float:
    return 10 * (expected.square().sum() / (found - expected).square().sum()).log10().item()


# Full weights overflow on a machine without VNNI, which is why it never uses them; seven bits fit everywhere.
@pytest.mark.parametrize("has_vnni", sorted({False, torch.cpu._is_vnni_supported()}))
def test_int8_is_near_float32(layers, monkeypatch, has_vnni):
    module, found = layers
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: has_vnni)
    # Activations of one sign and weights at their largest are what overflows 16 bits.
    with torch.no_grad():
        module.up.weight.abs_()
    x = torch.rand(7, 5, 32)
    quantised = found.in_int8(module, ["up", "down"])(x)[0]
    assert not torch.equal(quantised, found.in_int8(module, [])(x)[0])
    assert sqnr_db(quantised, module(x).detach()) > (34 if has_vnni else 30)


def test_layers_that_are_not_named_stay(layers):
    module, found = layers
    x = torch.randn(3, 5, 32)
    torch.testing.assert_close(found.in_int8(module, [])(x)[0], module(x).detach(), rtol=1e-4, atol=1e-4)
    both, one = (found.in_int8(module, names)(x)[0] for names in (["up", "down"], ["down"]))
    assert sqnr_db(one, module(x).detach()) > sqnr_db(both, module(x).detach())


def test_worlds_in_int8_are_nearly_the_same_worlds():
    quantised = compiled_model()
    quantised.int8_layers = layers_to_quantise(quantised, "int8")
    assert isinstance(WorldEngine(quantised).runner.frame_pass, CompiledFramePass)
    expected, found = play(compiled_model(), (3, 4)), play(quantised, (3, 4))
    for seed, latents in expected.items():
        assert (found[seed] != latents).any()
        assert sqnr_db(torch.from_numpy(found[seed]), torch.from_numpy(latents)) > 20
