"""Checkpoints: one folder format from the first training step to the served world.

    model.safetensors   weights of the parts that exist: vae.*, foundation.*, instructnet.*, motion.*
    config.json         one `ModelConfig`: how to build them and how to sample
    card.json           what trained it, on what, metrics, and the SHA-256 of the other files

Loading verifies the sums.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gamegen.config import build, to_dict
from gamegen.device import default_device
from gamegen.files import file_sha256, write_atomically
from gamegen.models.file_faults import file_fault
from gamegen.models.model import Model, ModelConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WEIGHTS_FOLDER = Path(__file__).parent.parent / "weights"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "card.json"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
"""PyTorch's names of types, as cards have them, with those of safetensors files."""
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into the names of weights."""


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or damaged; the message says which file and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its card."""

    model: Model
    config: ModelConfig
    card: dict[str, Any]


def resolve(name_or_path: str | Path) -> Path:
    """The folder of a shipped model (`nano`) or of a path; raises CheckpointError naming what was looked for."""
    for folder in (Path(name_or_path), WEIGHTS_FOLDER / str(name_or_path)):
        if (folder / CONFIG_FILE).is_file():
            return folder
    shipped = sorted(p.parent.name for p in WEIGHTS_FOLDER.glob(f"*/{CONFIG_FILE}"))
    raise CheckpointError(
        f"no checkpoint at {str(name_or_path)!r}: give a folder with {CONFIG_FILE}, or one of "
        f"the shipped models ({', '.join(shipped) or 'none'})"
    )


def read_config(name_or_path: str | Path) -> ModelConfig:
    """The config of a checkpoint without loading its weights."""
    file = resolve(name_or_path) / CONFIG_FILE
    return build(ModelConfig, read_json(file), str(file))


def read_settings(name_or_path: str | Path) -> dict[str, Any]:
    """The config of any kind of checkpoint as plain JSON."""
    return read_json(resolve(name_or_path) / CONFIG_FILE)


def read_card(name_or_path: str | Path) -> dict[str, Any]:
    """The card of a checkpoint; raises CheckpointError if it is missing or cannot be read."""
    file = resolve(name_or_path) / CARD_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{file} is missing: gamegen models adopt {file.parent} writes one for weights of yours"
        )
    return read_json(file)


def count_weights(name_or_path: str | Path) -> dict[str, int]:
    """Number of weights of each part of any kind of checkpoint.

    Raises CheckpointError if a file is missing or damaged.
    """
    folder = resolve(name_or_path)
    verify(folder, read_card(folder))
    counts: dict[str, int] = {}
    with safe_open(folder / WEIGHTS_FILE, "pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a mapping)
            part = name.partition(".")[0]
            counts[part] = counts.get(part, 0) + math.prod(file.get_slice(name).get_shape())
    return counts


def load_checkpoint(name_or_path: str | Path, device: torch.device | str | None = None) -> Checkpoint:
    """Builds a model and loads its weights in evaluation mode, after verifying every SHA-256 of its card.

    Raises CheckpointError if a file is missing, damaged or does not fit its config.
    """
    folder = resolve(name_or_path)
    card = read_card(folder)
    verify(folder, card)
    config = read_config(folder)
    model = Model(config)
    load_weights(model, folder)
    device = torch.device(device) if device else default_device()
    return Checkpoint(model.to(device).eval(), config, card)


def load_weights(module: nn.Module, folder: Path) -> None:
    """Loads the weights of a checkpoint folder into a module; raises CheckpointError if they do not fit."""
    weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}: {error}") from error


def verify(folder: Path, card: dict[str, Any]) -> None:
    """Checks the files of a checkpoint against the sums in its card; raises CheckpointError saying how they differ."""
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        file = folder / name
        if not file.is_file():
            if name == WEIGHTS_FILE and (shards := sorted(folder.glob("model-*-of-*.safetensors"))):
                raise CheckpointError(
                    f"{folder} has its weights in {len(shards)} shards: gamegen models adopt {folder} makes one "
                    "file of them"
                )
            raise CheckpointError(f"{file} is missing: copy the whole checkpoint folder again")
        if file_sha256(file) != card.get("sha256", {}).get(name):
            raise CheckpointError(f"{file} {file_fault(file) or _change(file, card)}")


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each name of a weight with what it is called without wrappers: `module.vae.x` or `vae._orig_mod.x` is `vae.x`."""
    plain = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names}
    # Lightning keeps what it trains as `model`.
    if plain and all(name.startswith("model.") for name in plain.values()):
        return {name: short.removeprefix("model.") for name, short in plain.items()}
    return plain


def _change(file: Path, card: dict[str, Any]) -> str:
    """How a file that can be read differs from what its card describes, and what to do."""
    folder = file.parent
    if file.name != WEIGHTS_FILE:
        if b"\r\n" in file.read_bytes():
            return f"was stored with line ends of Windows: gamegen models adopt {folder} takes it as it is"
        return (
            "is damaged, or was changed after its card was written: fetch or train the checkpoint again, or if the "
            f"change was meant, gamegen models adopt {folder} takes it as it is"
        )
    with safe_open(file, "pt") as weights:
        names = list(weights.keys())
        dtypes = {str(weights.get_slice(name).get_dtype()) for name in names}
    if wrapped := next((name for name, plain in plain_names(names).items() if name != plain), None):
        return (
            f"has weights named as a wrapper names them, {wrapped}: gamegen models adopt {folder} gives them their "
            "plain names"
        )
    stored = card.get("dtype")
    if stored and (others := sorted(dtypes - {_DTYPES.get(str(stored), "")})):
        return (
            f"holds {', '.join(others)} and its card says {stored}: gamegen models adopt {folder} takes the weights "
            "as they are, if they were converted on purpose"
        )
    return (
        "is damaged, or its weights were changed after its card was written: fetch or train the checkpoint again, or "
        f"if the change was meant, gamegen models adopt {folder} takes them as they are"
    )


def save_checkpoint(
    folder: Path,
    config: DataclassInstance,
    weights: dict[str, Tensor],
    card: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a checkpoint folder; `weights` are named as in the model's `state_dict`, floats stored as `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in weights.items()}
    write_weights(folder / WEIGHTS_FILE, stored)
    (folder / CONFIG_FILE).write_text(json.dumps(to_dict(config), indent=2) + "\n")
    write_card(folder, card)


def write_weights(file: Path, weights: dict[str, Tensor]) -> None:
    """Writes tensors as a safetensors file; no reader meets half of it."""
    with write_atomically(file) as partial:
        save_file(weights, partial)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Writes the card of a checkpoint folder with the SHA-256 of its other files as they are."""
    sums = {name: file_sha256(folder / name) for name in (WEIGHTS_FILE, CONFIG_FILE)}
    (folder / CARD_FILE).write_text(json.dumps({**card, "sha256": sums}, indent=2) + "\n")


def save_random(folder: Path, config: ModelConfig, seed: int = 0) -> None:
    """Writes a checkpoint of random weights, for tests and benchmarks."""
    torch.manual_seed(seed)
    model = Model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
    save_checkpoint(folder, config, model.state_dict(), {"stage": "random"})


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError if it cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{file} {file_fault(file) or f'is not valid JSON: {error}'}") from error
