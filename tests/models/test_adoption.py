"""Checkpoints that came another way than by training: what is said about them, and which can be adopted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gamegen.models.adoption import INDEX_FILE, adopt
from gamegen.models.checkpoint import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    WEIGHTS_FOLDER,
    CheckpointError,
    load_checkpoint,
    plain_names,
    save_random,
)
from gamegen.models.file_faults import file_fault
from gamegen.models.inverse_dynamics import load_inverse_dynamics
from gamegen.models.model import Model, ModelConfig

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adoption") / "tiny"
    save_random(folder, ModelConfig.tiny())
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> Weights:
    weights = change(load_file(folder / WEIGHTS_FILE))
    save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
    return weights


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


def infixed(weights: Weights) -> Weights:
    return {name.replace("foundation.", "foundation._orig_mod."): tensor for name, tensor in weights.items()}


def converted(dtype: torch.dtype) -> Callable[[Weights], Weights]:
    return lambda weights: {name: tensor.to(dtype) for name, tensor in weights.items()}


def with_first(change: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    """Changes the first tensor alone."""

    def changed(weights: Weights) -> Weights:
        name = sorted(weights)[0]
        return weights | {name: change(weights[name])}

    return changed


@pytest.mark.parametrize(
    ("change", "sentence", "rewritten"),
    [
        (prefixed("module."), "named as a wrapper names them, module.", True),
        (prefixed("_orig_mod."), "named as a wrapper names them, _orig_mod.", True),
        (prefixed("module._orig_mod."), "named as a wrapper names them", True),
        (prefixed("model."), "named as a wrapper names them, model.", True),
        (infixed, "named as a wrapper names them, foundation._orig_mod.", True),
        (converted(torch.float16), "is damaged, or its weights were changed", False),
        (with_first(lambda tensor: tensor * 1.5), "is damaged, or its weights were changed", False),
    ],
    ids=["ddp", "compiled", "ddp of compiled", "lightning", "compiled part", "fp16", "changed"],
)
def test_what_was_converted_on_purpose_is_named_and_can_be_adopted(
    folder: Path, change: Callable[[Weights], Weights], sentence: str, rewritten: bool
) -> None:
    changed = rewrite(folder, change)
    with pytest.raises(CheckpointError, match=rf"{sentence}.*gamegen models adopt {folder}"):
        load_checkpoint(folder, "cpu")
    assert bool(adopt(folder).rewritten) == rewritten
    model = load_checkpoint(folder, "cpu").model
    plain = plain_names(changed)
    assert all(torch.equal(changed[name].float(), model.state_dict()[plain[name]]) for name in changed)


def test_another_type_than_the_card_says_is_named(folder: Path) -> None:
    rewrite(folder, converted(torch.bfloat16))
    adopt(folder)
    card = json.loads((folder / CARD_FILE).read_text())
    assert (card["dtype"], card["stage"], card["adopted"]) == ("bfloat16", "random", True)
    rewrite(folder, converted(torch.float16))
    with pytest.raises(CheckpointError, match=r"holds F16 and its card says bfloat16: gamegen models adopt"):
        load_checkpoint(folder, "cpu")


def test_shards_become_one_file(folder: Path, gamegen) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).unlink()
    placed = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(weights))}
    for shard in set(placed.values()):
        save_file({name: weights[name] for name in weights if placed[name] == shard}, folder / shard)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(CheckpointError, match=r"in 2 shards: gamegen models adopt .* makes one file"):
        load_checkpoint(folder, "cpu")
    done = gamegen("models", "adopt", str(folder))
    assert done.returncode == 0 and "rewritten: 2 shards as one file" in done.stdout
    model = load_checkpoint(folder, "cpu").model
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in weights.items())


def test_a_card_is_written_for_weights_that_have_none(folder: Path) -> None:
    (folder / CARD_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"card.json is missing: gamegen models adopt"):
        load_checkpoint(folder, "cpu")
    adopt(folder)
    assert load_checkpoint(folder, "cpu").card["weights"] > 0


@pytest.mark.parametrize("ending", ["\r\n", "\n\n"], ids=["windows", "edited"])
def test_a_config_that_says_the_same_in_other_bytes_can_be_adopted(folder: Path, ending: str) -> None:
    config = (folder / CONFIG_FILE).read_bytes()
    (folder / CONFIG_FILE).write_bytes(config.replace(b"\n", ending.encode()))
    said = "line ends of Windows" if ending == "\r\n" else "is damaged, or was changed"
    with pytest.raises(CheckpointError, match=rf"config.json .*{said}.*gamegen models adopt"):
        load_checkpoint(folder, "cpu")
    adopt(folder)
    assert load_checkpoint(folder, "cpu").config == ModelConfig.tiny()


def test_inverse_dynamics_are_adopted_too(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(WEIGHTS_FOLDER / "idm", tmp_path / "idm"))
    rewrite(folder, prefixed("module."))
    adopt(folder)
    assert load_inverse_dynamics(folder, "cpu")


@pytest.mark.parametrize("file", [WEIGHTS_FILE, CONFIG_FILE, CARD_FILE])
def test_a_git_lfs_pointer_is_told_by_its_content(folder: Path, file: str) -> None:
    (folder / file).write_text(LFS_POINTER)
    for read in (load_checkpoint, adopt):
        with pytest.raises(CheckpointError, match=rf"{file} is a Git LFS pointer .*run git lfs pull"):
            read(folder)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda data: data[:-7], r"is damaged: it is cut, with [\d,]+ of [\d,]+ bytes; fetch"),
        (lambda data: data[:100], r"it is cut, with 100 bytes, and its header"),
        (lambda data: data + b"more", r"it has 4 bytes too many"),
        (lambda data: b"", "it is empty"),
        (lambda data: b"PK\x03\x04" + data, "is a pickle of PyTorch's"),
        (lambda data: b"<!doctype html><title>404</title>" + b" " * 99, "it is no safetensors file"),
        (lambda data: data[:8] + b"[" + data[9:], "it is no safetensors file"),
    ],
    ids=["tail", "header", "more", "empty", "pickle", "html", "header garbled"],
)
def test_a_file_that_cannot_be_read_says_why_and_is_not_adopted(
    folder: Path, content: Callable[[bytes], bytes], sentence: str
) -> None:
    file = folder / WEIGHTS_FILE
    file.write_bytes(content(file.read_bytes()))
    card = (folder / CARD_FILE).read_bytes()
    for read in (load_checkpoint, adopt):
        with pytest.raises(CheckpointError, match=sentence):
            read(folder)
    assert (folder / CARD_FILE).read_bytes() == card


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weights: dict(sorted(weights.items())[1:]), "is missing"),
        (lambda weights: dict(sorted(weights.items())[5:]), "and 2 more are missing"),
        (lambda weights: weights | {"n_averaged": torch.ones(1)}, "n_averaged is unknown"),
        (with_first(lambda tensor: torch.ones(3, 1, 4)), r"has shape \[3, 1, 4\], not"),
        (with_first(lambda tensor: tensor.to(torch.int8)), r"is int8: use one of float32"),
        (with_first(lambda tensor: tensor * float("inf")), "infinite or no number"),
        (
            lambda weights: weights | prefixed("module.")(dict(sorted(weights.items())[:1])),
            "two tensors of one name",
        ),
    ],
    ids=["missing", "five missing", "unknown", "shape", "int8", "infinite", "twice"],
)
def test_weights_that_do_not_fit_their_config_are_not_adopted(
    folder: Path, change: Callable[[Weights], Weights], sentence: str
) -> None:
    rewrite(folder, change)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(CheckpointError, match=sentence):
        adopt(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_no_part_of_a_model_is_called_as_a_wrapper() -> None:
    names = Model(ModelConfig.tiny()).state_dict()
    assert plain_names(names) == {name: name for name in names}


def test_shipped_weights_can_be_read() -> None:
    files = sorted(WEIGHTS_FOLDER.rglob("*.safetensors"))
    assert len(files) == 4 and not [fault for file in files if (fault := file_fault(file))]
