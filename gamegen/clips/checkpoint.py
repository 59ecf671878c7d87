"""A clip on its way as bytes: what another process goes on from, to the last bit.

They are a safetensors file, so reading one runs nothing that is in it. Noise is a pure function of the seed, the chunk
and its purpose: there is no state of a random generator to keep. Shape suffixes: M finished chunks.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gamegen.config import build, to_dict
from gamegen.device import one_thread
from gamegen.models.sampling import SamplingConfig

_KEY = "gamegen clip checkpoint"
FORMAT_VERSION = 1
"""That of the bytes; those of another version are refused."""
_TENSORS = {"latents_MCHW": torch.float16, "x_CHW": torch.float32}
_FACTS = {
    "format_version": int,
    "order": str,
    "seed": int,
    "num_before": int,
    "step": int,
    "steps_done": int,
    "sampling": dict,
}


@dataclass(frozen=True)
class ClipCheckpoint:
    """A clip after `step` denoising steps.

    `order` is the order's content hash, `sampling` how it is drawn. `latents` `(M, C, h, w)` float16 are the finished
    chunks, the first `num_before` of them before the clip; the next is at `x` `(C, h, w)` float32 after `steps_done`
    steps. Both are empty where there are none.
    """

    order: str
    seed: int
    num_before: int
    step: int
    steps_done: int
    sampling: SamplingConfig
    latents: Tensor
    x: Tensor

    @one_thread()
    def to_bytes(self) -> bytes:
        """Serialised for a process of this release, or one with the same `FORMAT_VERSION`."""
        tensors = {"latents_MCHW": self.latents, "x_CHW": self.x}
        tensors = {name: tensors[name].cpu().to(dtype).contiguous() for name, dtype in _TENSORS.items()}
        facts: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "order": self.order,
            "seed": self.seed,
            "num_before": self.num_before,
            "step": self.step,
            "steps_done": self.steps_done,
            "sampling": to_dict(self.sampling),
        }
        return save(tensors, {_KEY: json.dumps(facts | {"crc32": _checksum(tensors, facts)})})

    @classmethod
    @one_thread()
    def from_bytes(cls, data: bytes) -> ClipCheckpoint:
        """The inverse; raises ValueError for bytes that are cut off, damaged, foreign or of another version."""
        facts, tensors = _read(data)
        latents, x = tensors["latents_MCHW"], tensors["x_CHW"]
        _require(latents.ndim == 4 or not latents.numel(), f"latents of shape {tuple(latents.shape)}")
        _require(x.ndim == 3 or not x.numel(), f"a latent of shape {tuple(x.shape)}")
        for name in ("num_before", "step", "steps_done"):
            _require(facts[name] >= 0, f"its {name} is {facts[name]}")
        _require(
            facts["num_before"] <= len(latents) and facts["steps_done"] <= facts["step"], "it counts wrongly"
        )
        sampling = build(SamplingConfig, facts["sampling"], "the checkpoint's sampling")
        counts = {name: facts[name] for name in ("order", "seed", "num_before", "step", "steps_done")}
        return cls(**counts, sampling=sampling, latents=latents, x=x)


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint says of itself, and its tensors."""
    try:
        tensors = load(data)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"the checkpoint is cut off, damaged or none at all ({error})") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    told = header.get("__metadata__", {}).get(_KEY)
    if told is None:
        raise ValueError("these tensors are no checkpoint of a clip")
    facts = _facts(told)
    if facts["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"the checkpoint has format version {facts['format_version']} and this release reads {FORMAT_VERSION}: "
            "begin the clip anew"
        )
    _require(tensors.keys() == _TENSORS.keys(), f"its tensors are {', '.join(sorted(tensors)) or 'none'}")
    for name, dtype in _TENSORS.items():
        _require(tensors[name].dtype == dtype, f"{name} has type {tensors[name].dtype}")
        _require(bool(tensors[name].isfinite().all()), f"{name} has values that are no numbers")
    _require(facts.pop("crc32") == _checksum(tensors, facts), "its checksum is another")
    return facts, tensors


def _facts(told: str) -> dict[str, Any]:
    try:
        facts = json.loads(told)
    except (ValueError, RecursionError):
        facts = None
    _require(isinstance(facts, dict), "it does not say what it is")
    for name, kind in (_FACTS | {"crc32": int}).items():
        _require(type(facts.get(name)) is kind, f"its {name} is {facts.get(name)!r}"[:100])
    return facts


def _checksum(tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> int:
    shapes = {name: list(tensors[name].shape) for name in _TENSORS}
    checksum = zlib.crc32(json.dumps([facts, shapes], sort_keys=True).encode())
    for name in _TENSORS:
        checksum = zlib.crc32(tensors[name].numpy().data, checksum)
    return checksum


def _require(is_true: bool, otherwise: str) -> None:
    if not is_true:
        raise ValueError(f"the checkpoint is damaged: {otherwise}")
