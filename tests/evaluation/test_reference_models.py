"""Reference networks from files: tiny TorchScript networks of known answers, and a CLIP of random weights."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gamegen.evaluation.reference_models import ClipNetwork, ReferenceModels, TorchScriptNetwork


class MeanColour(nn.Module):
    """Features: the mean of each channel, or a class if nobody asks for features."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        means = images.float().flatten(2).mean(2)
        return means if return_features else means.argmax(1, keepdim=True)


class MeanDifference(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean((1, 2, 3))


def saved(module: nn.Module, path) -> str:
    torch.jit.script(module).save(str(path))
    return str(path)


def flat(*values: int) -> np.ndarray:
    return np.stack([np.full((8, 8, 3), value, np.uint8) for value in values])


def test_image_and_video_features_come_from_the_file(tmp_path):
    network = TorchScriptNetwork(saved(MeanColour(), tmp_path / "a.pt"))
    assert network.image_features(flat(7, 200)).tolist() == [[7, 7, 7], [200, 200, 200]]
    assert network.video_features(np.stack([flat(10, 20)])).tolist() == [[15, 15, 15]]


def test_distances_are_of_pixels_in_minus_1_to_1(tmp_path):
    network = TorchScriptNetwork(saved(MeanDifference(), tmp_path / "a.pt"))
    assert network.distance(flat(0, 255), flat(255, 255)) == pytest.approx(1)


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "a.pt").write_text("no network")
    with pytest.raises(ValueError, match=r"a\.pt is not a TorchScript file"):
        TorchScriptNetwork(str(tmp_path / "a.pt"))


def test_judges_are_told_apart_by_their_weights(tmp_path):
    first, second = (ReferenceModels(fid=saved(MeanColour(), tmp_path / "a.pt")), ReferenceModels())
    assert first.sums().keys() == {"fid"} and second.sums() == {}


def test_clip_compares_frames_with_words(tmp_path):
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", "d", "a", "y</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).save_pretrained(tmp_path)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 5, "eos_token_id": 1, "bos_token_id": 0, "projection_dim": 8},
        vision_config={**small, "image_size": 16, "patch_size": 8, "projection_dim": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(tmp_path)
    clip = ClipNetwork(str(tmp_path))
    noise = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    single = [clip.similarity(frame[None], "day") for frame in noise]
    assert clip.similarity(noise, "day") == pytest.approx(np.mean(single), abs=1e-5)
    assert -1 <= single[0] <= 1 and single[0] != single[1]
    with pytest.raises(ValueError, match="is not a folder"):
        ClipNetwork(str(tmp_path / "nowhere"))
