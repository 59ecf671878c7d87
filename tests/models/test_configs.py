"""Named model configs: each is whole, nano is what ships, mistakes are named."""

import dataclasses

import pytest

from gamegen import config
from gamegen.models.checkpoint import read_config
from gamegen.models.configs import model_names, named_config
from gamegen.models.model import ModelConfig
from gamegen.models.msdit import MSDiTConfig


def test_nano_is_the_shipped_model_without_what_later_stages_add():
    """The `motion` stage has the sizes of the motion network, after which latents are motion-compensated; the
    `streaming` stage adds the decoder's reference and its filter."""
    shipped = read_config("nano")
    vae = dataclasses.replace(shipped.vae, streaming_reference=False, deblocking_channels=0)
    foundation = dataclasses.replace(shipped.foundation, motion_compensation=False)
    parts = {"vae": vae, "foundation": foundation, "motion": None, "latent_mean": (), "latent_std": ()}
    assert named_config("nano") == dataclasses.replace(shipped, **parts)


def test_widths_layers_and_heads_of_the_named_configs():
    sizes = {}
    for name in model_names():
        foundation = named_config(name).foundation
        sizes[name] = (foundation.width, foundation.num_layers, foundation.num_heads)
    assert sizes == {
        "nano": (256, 4, 4),
        "small": (384, 6, 6),
        "base": (768, 16, 12),
        "gamegen-x": (1152, 28, 16),
        "xl": (4096, 28, 32),
    }
    assert list(sizes) == ["nano", "small", "base", "gamegen-x", "xl"]
    large = named_config("gamegen-x")
    assert (large.width, large.height, large.foundation.window) == (1280, 720, 26)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(
        ValueError, match="no model config 'huge': use one of base, gamegen-x, nano, small, xl"
    ):
        named_config("huge")
    half = tmp_path / "half.yaml"
    half.write_text("foundation: {width: 32, num_heads: 2}\n")
    with pytest.raises(ValueError, match=r"half.yaml: missing key 'instructnet'"):
        named_config(str(half))
    with pytest.raises(ValueError, match="multiple of 4 channels"):
        MSDiTConfig(width=40, num_heads=4)
    with pytest.raises(ValueError, match="latent_channels"):
        ModelConfig(foundation=MSDiTConfig.tiny())


def test_an_installation_without_its_settings_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    with pytest.raises(ValueError, match="models has no model config at all: install GameGen again"):
        model_names()
    with pytest.raises(ValueError, match="models has no model config at all"):
        named_config("nano")
