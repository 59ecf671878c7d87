"""Checkpoints load what was saved and refuse what is damaged."""

import json

import pytest
import torch

from gamegen.models.checkpoint import CheckpointError, load_checkpoint, resolve, save_random
from gamegen.models.model import ModelConfig


@pytest.fixture
def folder(tmp_path):
    save_random(tmp_path / "tiny", ModelConfig.tiny())
    return tmp_path / "tiny"


def test_round_trip(folder):
    first, second = load_checkpoint(folder), load_checkpoint(folder)
    assert first.config == ModelConfig.tiny()
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_flipped_byte_is_noticed(folder):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        load_checkpoint(folder)


def test_missing_parts_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="no checkpoint at 'nowhere'"):
        resolve("nowhere")


def test_unknown_config_key_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    config["vae"]["depth"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    card = json.loads((folder / "card.json").read_text())
    import hashlib

    card["sha256"]["config.json"] = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="unknown key 'depth'"):
        load_checkpoint(folder)
