"""Counts from the config alone equal those of a real model."""

import dataclasses

import pytest
import torch

from gamegen.models.attention import TemporalAttention
from gamegen.models.configs import named_config
from gamegen.models.counts import (
    Latents,
    chunk_flops,
    chunk_pass_flops,
    forward_flops,
    measured_flops,
    meta_model,
    parameter_counts,
    vae_flops,
)
from gamegen.models.instructnet import ControlInputs
from gamegen.models.kv_cache import KVCaches
from gamegen.models.model import Model, ModelConfig
from gamegen.models.network_inputs import Previous, Text, VideoFormat

TINY = ModelConfig.tiny()


def deep(num_layers: int) -> ModelConfig:
    return dataclasses.replace(TINY, foundation=dataclasses.replace(TINY.foundation, num_layers=num_layers))


def passing(model: Model, latents: Latents, batch: int, caches: KVCaches | None = None):
    """A real forward pass on the CPU."""
    config = model.foundation.config
    x = torch.randn(batch, latents.frames, config.latent_channels, latents.rows, latents.columns)
    level = torch.rand(batch, latents.frames)
    tokens = torch.randn(batch, latents.text_tokens, config.text_width)
    text = Text(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), tokens.mean(1))
    # In play the instruction is a text of its own, and there is none most of the time.
    said = text if caches is None else Text.none(batch, config.text_width)
    controls = ControlInputs(torch.zeros(*level.shape, 4, 9), torch.ones_like(level).bool(), said, level)
    return lambda: model.foundation(
        x,
        level,
        Previous(x, x, level),
        text,
        VideoFormat(),
        model.instructnet and model.instructnet.bind(controls),
        caches and caches.rings,
    )


@pytest.mark.parametrize("num_layers", [2, 5, 6])
@pytest.mark.parametrize("latents", [Latents(3, 4, 6, 7), Latents(5, 4, 4, 1)], ids=["short", "windowed"])
def test_forward_flops_equal_those_of_a_real_pass(num_layers, latents):
    config = deep(num_layers)
    counted = forward_flops(config, latents, batch=2)
    assert counted.total == measured_flops(passing(Model(config), latents, 2))
    alone = dataclasses.replace(config, instructnet=None)
    assert counted.foundation == measured_flops(passing(Model(alone), latents, 2))
    assert forward_flops(alone, latents, batch=2).instructnet == 0


def test_a_streamed_chunk_counts_its_passes_and_its_decoder():
    model = Model(TINY)
    attentions = [m for m in model.modules() if isinstance(m, TemporalAttention)]
    caches = KVCaches([attention.new_cache(1, 4, torch.float32) for attention in attentions])
    with torch.inference_mode():
        one_pass = passing(model, Latents(1, 4, 4, 7), 1, caches)
        for _ in range(3):
            one_pass()
            caches.commit()
        one = measured_flops(one_pass)
    assert chunk_pass_flops(TINY, 7).total == one
    latent = torch.randn(1, 1, 4, 4, 4)
    decoding = measured_flops(lambda: model.vae.decode_streaming(latent))
    # Two denoising passes and the one that commits.
    assert chunk_flops(TINY, 7) == 3 * one + decoding
    guided = dataclasses.replace(TINY, sampling=dataclasses.replace(TINY.sampling, guidance_scale=2.0))
    assert chunk_flops(guided, 7) == 5 * one + decoding


def test_vae_flops_equal_those_of_a_real_pass():
    vae = Model(TINY).vae
    video, latent = torch.randn(2, 8, 3, 32, 48), torch.randn(2, 2, 4, 4, 6)
    counted = vae_flops(TINY, Latents(2, 4, 6), batch=2)
    assert counted.encode == measured_flops(lambda: vae.encode(video))
    assert counted.decode == measured_flops(lambda: vae.decode(latent))
    assert counted.stream == measured_flops(lambda: vae.decode_streaming(latent))


def test_parameters_equal_those_of_a_real_model():
    for config in (TINY, named_config("nano"), dataclasses.replace(TINY, instructnet=None)):
        model = Model(config)
        assert parameter_counts(config) == {
            name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
        }


def test_xl_is_built_without_memory():
    model = meta_model(named_config("xl"))
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert sum(p.numel() for p in model.parameters()) > 1e10


def test_a_clip_becomes_latents_and_tokens():
    latents = Latents.of_clip(named_config("gamegen-x"), 102)
    assert (latents.frames, latents.rows, latents.columns) == (26, 90, 160)
    assert latents.tokens == 26 * 45 * 80
    with pytest.raises(ValueError, match="no foundation"):
        forward_flops(dataclasses.replace(TINY, foundation=None, instructnet=None), Latents(1, 4, 4))
