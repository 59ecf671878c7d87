"""Precisions: near float32, only the layers meant, and none that is too far off."""

import pytest
import torch
from torch import nn

from gamegen.controls import Control
from gamegen.device import compute_dtype
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.model import Model
from gamegen.models.precision import MIN_SQNR_DB, convert, layer_errors, quantised_layers
from gamegen.models.text import TextStates


@pytest.fixture
def model(tiny_model) -> Model:
    model = load_checkpoint(tiny_model, "cpu").model
    generator = torch.Generator().manual_seed(0)
    # Layers that start at zero would hide what comes before them.
    for p in model.parameters():
        if not p.any():
            p.data = 0.05 * torch.randn(p.shape, generator=generator)
    return model


def drawn(model: Model, num_chunks: int = 3) -> torch.Tensor:
    assert model.foundation is not None
    engine = WorldEngine(model, EngineConfig(max_sessions=1))
    width = model.foundation.config.text_width
    states = TextStates(torch.ones(3, width), torch.ones(width))
    engine.open("a", states, seed=1)
    chunks = [engine.step({"a": Control({"w"}).operations()})["a"] for _ in range(num_chunks)]
    return torch.stack([torch.from_numpy(chunk).float() for chunk in chunks])


def sqnr_db(found: torch.Tensor, expected: torch.Tensor) -> float:
    return 10 * (expected.square().sum() / (found - expected).square().sum()).log10().item()


@pytest.mark.parametrize(("precision", "least_db"), [("bfloat16", 25), ("int8", 20)])
def test_a_converted_model_draws_nearly_the_same(model, precision, least_db):
    expected = drawn(model)
    found = drawn(convert(model, precision))
    assert not torch.equal(found, expected)
    assert sqnr_db(found, expected) > least_db


def test_the_last_frames_are_drawn_in_mixed_precision_as_well(model):
    """A decoder without a reference computes in bfloat16 then, and stillness in float32."""
    latent = torch.zeros(1, model.config.vae.latent_channels, 4, 4)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        frames = model.vae.streaming.last_two(latent, latent)
    # Where the latent stays, both frames are the last one.
    assert torch.equal(*frames)


def test_native_on_a_cpu_changes_nothing_it_need_not(model):
    if compute_dtype(torch.device("cpu")) == torch.float32:
        expected = drawn(model)
        assert torch.equal(drawn(convert(model, "native")), expected)


def test_layers_over_tokens_are_quantised_and_their_conditions_are_not(model):
    before = {name for name, _ in quantised_layers(model.foundation)}
    assert "blocks.0.mlp.up" in before and "blocks.1.attention.qkv" in before
    convert(model, "int8")
    linears = {name for name, module in model.foundation.named_modules() if type(module) is nn.Linear}
    assert not linears & before
    assert {"patch_in", "patch_out", "modulation.0", "blocks.0.cross.key_value"} <= linears


def test_a_layer_that_int8_cannot_hold_stays(model):
    # One channel a thousand times the others: all the rest fall below one step of its scale.
    layer = model.foundation.blocks[0].mlp.up
    with torch.no_grad():
        layer.weight *= 1e-4
        layer.weight[:, 0] = 0
        layer.bias.zero_()
    norm = model.foundation.blocks[0]
    norm.mlp.register_forward_pre_hook(lambda _module, inputs: (_spike(inputs[0]), *inputs[1:]))
    errors = {e.name: e for e in layer_errors(model, "int8", lambda: drawn(model, 1))}
    assert errors["foundation.blocks.0.mlp.up"].sqnr_db < MIN_SQNR_DB
    assert errors["foundation.blocks.1.mlp.up"].sqnr_db > MIN_SQNR_DB
    convert(model, "int8", lambda: drawn(model, 1))
    assert type(model.foundation.blocks[0].mlp.up) is nn.Linear
    assert type(model.foundation.blocks[1].mlp.up) is not nn.Linear


def _spike(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[..., 0] = 1e4
    return x


def test_a_precision_that_the_device_lacks_is_refused(model):
    with pytest.raises(ValueError, match="float8 on a CPU: use int8"):
        convert(model, "float8")
