"""Adopting a checkpoint whose files were changed on purpose: its card is renewed once everything fits its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gamegen.config import build
from gamegen.models.checkpoint import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    plain_names,
    read_json,
    write_card,
    write_weights,
)
from gamegen.models.file_faults import file_fault
from gamegen.models.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from gamegen.models.model import Model, ModelConfig

INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
"""Which shard holds which tensor, as Hugging Face's libraries write it."""
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Adoption:
    """What was found: number of weights, their types (`float16`), and in words what was rewritten, if anything."""

    num_weights: int
    dtypes: tuple[str, ...]
    rewritten: tuple[str, ...]


def adopt(folder: Path) -> Adoption:
    """Renews the card of a checkpoint folder, after checking that its weights fit its config.

    Names get rid of what DistributedDataParallel, torch.compile and the like put into them, and shards become one file.
    Raises CheckpointError, and changes nothing, if a file is missing or cannot be read, or if a tensor is missing,
    unknown, of another shape, not of a floating-point type, or not finite.
    """
    config_file = folder / CONFIG_FILE
    if not config_file.is_file():
        raise CheckpointError(f"{config_file} is missing: a checkpoint needs its config beside its weights")
    if fault := file_fault(config_file):
        raise CheckpointError(f"{config_file} {fault}")
    card = read_json(folder / CARD_FILE) if (folder / CARD_FILE).is_file() else {}
    found, rewritten = _read(folder)
    names = plain_names(found)
    weights = {names[name]: tensor for name, tensor in found.items()}
    if len(weights) < len(found):
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} has two tensors of one name: write it without wrappers' names"
        )
    _check(weights, _expected_shapes(config_file), folder)
    if set(weights) != set(found):
        rewritten = (*rewritten, "names without wrappers")
    if rewritten:
        write_weights(folder / WEIGHTS_FILE, weights)
    dtypes = tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}))
    num_weights = sum(tensor.numel() for tensor in weights.values())
    facts = {"weights": num_weights, "dtype": ", ".join(dtypes), "adopted": True}
    write_card(folder, {**card, **facts})
    return Adoption(num_weights, dtypes, rewritten)


def _read(folder: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a folder by their names, and in words what has to be rewritten."""
    if (folder / WEIGHTS_FILE).is_file():
        return _load(folder / WEIGHTS_FILE), ()
    if not (folder / INDEX_FILE).is_file():
        raise CheckpointError(f"{folder / WEIGHTS_FILE} is missing: copy the whole checkpoint folder again")
    try:
        shards = sorted(set(read_json(folder / INDEX_FILE)["weight_map"].values()))
    except (LookupError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder / INDEX_FILE} names no shards: copy it again") from error
    weights: dict[str, Tensor] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise CheckpointError(f"{folder / INDEX_FILE} names {shard!r}: shards lie beside it")
        weights |= _load(folder / shard)
    return weights, (f"{len(shards)} shards as one file",)


def _load(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing: copy the whole checkpoint folder again")
    if fault := file_fault(file):
        raise CheckpointError(f"{file} {fault}")
    try:
        weights: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file} cannot be read ({error}): fetch the checkpoint again") from error
    return weights


def _expected_shapes(config_file: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that the config's model has, by its name."""
    config = read_json(config_file)
    with torch.device("meta"):
        model: Model | InverseDynamics
        if "vae" in config:
            model = Model(build(ModelConfig, config, str(config_file)))
        else:
            model = InverseDynamics(build(InverseDynamicsConfig, config, str(config_file)))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _check(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    where = f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}: "
    if missing := sorted(set(expected) - set(weights)):
        raise CheckpointError(f"{where}{_named(missing)} missing")
    if unknown := sorted(set(weights) - set(expected)):
        raise CheckpointError(f"{where}{_named(unknown)} unknown to it")
    for name, tensor in weights.items():
        if tuple(tensor.shape) != expected[name]:
            raise CheckpointError(f"{where}{name} has shape {list(tensor.shape)}, not {list(expected[name])}")
        if tensor.dtype not in _DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise CheckpointError(
                f"{where}{name} is {str(tensor.dtype).removeprefix('torch.')}: use one of {allowed}"
            )
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{where}{name} has values that are infinite or no number: convert it again"
            )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more are" if len(names) > 3 else " is" if len(names) == 1 else " are"
    return ", ".join(names[:3]) + more
