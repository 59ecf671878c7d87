"""Checkpoints of unfinished clips as bytes, from which another process resumes bit for bit.

They are safetensors files, so reading one runs no code. Noise is a pure function of the seed, the chunk and its
purpose: there is no random generator's state to keep. Shape suffixes: M finished chunks, F frames, R colours.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gamegen.config import build, to_dict
from gamegen.device import one_thread
from gamegen.engine.memory_bytes import as_tensor, memory_from_bytes, memory_to_bytes
from gamegen.models.motion_compensation import Compensated
from gamegen.models.sampling import SamplingConfig
from gamegen.models.view_memory import ViewMemory

_KEY = "gamegen clip checkpoint"
FORMAT_VERSION = 1
"""Version of the bytes; checkpoints of other versions are refused."""
_TENSORS = {
    "latents_MCHW": torch.float16,
    "x_CHW": torch.float32,
    "compensated_MCHW": torch.float16,
    "confidence_M1HW": torch.float16,
    "shown_FHWR": torch.uint8,
    "memory_B": torch.uint8,
}
_ADDED = ("compensated_MCHW", "confidence_M1HW", "shown_FHWR", "memory_B")
"""Tensors that older checkpoints lack, and that are empty for models that follow no frames."""
_FACTS = {
    "format_version": int,
    "order": str,
    "seed": int,
    "num_before": int,
    "step": int,
    "steps_done": int,
    "sampling": dict,
}


@dataclass(frozen=True, kw_only=True)
class ClipCheckpoint:
    """A clip after `step` denoising steps.

    `content_hash` is its spec's, `sampling` its plan's. `latents` `(M, C, h, w)` float16 are the finished chunks, the
    first `num_before` of them from before the clip; `x` `(C, h, w)` float32 is the next one after `steps_done` steps.
    Both are empty where there are none. `compensated`, `shown` and `memory` are as in
    `Drawing`.
    """

    content_hash: str
    seed: int
    num_before: int
    step: int
    steps_done: int
    sampling: SamplingConfig
    latents: Tensor
    x: Tensor
    compensated: list[Compensated] = field(default_factory=list)
    shown: Tensor | None = None
    memory: ViewMemory = field(default_factory=ViewMemory)

    @one_thread()
    def to_bytes(self) -> bytes:
        """Serialised for a process of this release, or one with the same `FORMAT_VERSION`."""
        none = torch.empty(0)
        tensors = {
            "latents_MCHW": self.latents,
            "x_CHW": self.x,
            "compensated_MCHW": torch.stack([c.latent for c in self.compensated])
            if self.compensated
            else none,
            "confidence_M1HW": torch.stack([c.confidence for c in self.compensated])
            if self.compensated
            else none,
            "shown_FHWR": none if self.shown is None else self.shown,
            "memory_B": as_tensor(memory_to_bytes(self.memory)),
        }
        tensors = {name: tensors[name].cpu().to(dtype).contiguous() for name, dtype in _TENSORS.items()}
        facts: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "order": self.content_hash,
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
        """The inverse of `to_bytes`; raises ValueError for bytes that are damaged, foreign or of another version."""
        facts, tensors = _read(data)
        latents, x = tensors["latents_MCHW"], tensors["x_CHW"]
        _require(latents.ndim == 4 or not latents.numel(), f"latents of shape {tuple(latents.shape)}")
        _require(x.ndim == 3 or not x.numel(), f"a latent of shape {tuple(x.shape)}")
        for name in ("num_before", "step", "steps_done"):
            _require(facts[name] >= 0, f"its {name} is {facts[name]}")
        for part, whole, of in (
            ("num_before", len(latents), "chunks"),
            ("steps_done", facts["step"], "steps"),
        ):
            _require(facts[part] <= whole, f"{part} = {facts[part]} of {whole} {of}")
        return cls(
            content_hash=facts["order"],
            seed=facts["seed"],
            num_before=facts["num_before"],
            step=facts["step"],
            steps_done=facts["steps_done"],
            sampling=build(SamplingConfig, facts["sampling"], "the checkpoint's sampling"),
            latents=latents,
            x=x,
            compensated=_compensated(tensors),
            shown=tensors["shown_FHWR"] if len(tensors["shown_FHWR"]) else None,
            memory=_memory(tensors["memory_B"]),
        )


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the tensors of a checkpoint; raises ValueError."""
    try:
        tensors = load(data)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"the checkpoint is cut off, damaged or not a safetensors file ({error})") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text = header.get("__metadata__", {}).get(_KEY)
    if text is None:
        raise ValueError("these tensors are not a checkpoint of a clip")
    facts = _facts(text)
    if facts["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"the checkpoint has format version {facts['format_version']} and this release reads {FORMAT_VERSION}: "
            "start the clip again"
        )
    tensors = {name: torch.empty(0, dtype=_TENSORS[name]) for name in _ADDED} | tensors
    _require(tensors.keys() == _TENSORS.keys(), f"its tensors are {', '.join(sorted(tensors)) or 'none'}")
    for name, dtype in _TENSORS.items():
        _require(tensors[name].dtype == dtype, f"{name} has type {tensors[name].dtype}")
        _require(bool(tensors[name].isfinite().all()), f"{name} has NaN or infinite values")
    _require(facts.pop("crc32") == _checksum(tensors, facts), "its checksum does not match")
    return facts, tensors


def _compensated(tensors: Mapping[str, Tensor]) -> list[Compensated]:
    latents, confidences = tensors["compensated_MCHW"], tensors["confidence_M1HW"]
    whole = tensors["latents_MCHW"].shape
    _require(
        not len(latents) or (latents.shape == whole and confidences.shape == (whole[0], 1, *whole[2:])),
        f"motion-compensated latents of shape {tuple(latents.shape)}",
    )
    return [Compensated(*pair) for pair in zip(latents, confidences, strict=True)]


def _memory(memory_B: Tensor) -> ViewMemory:
    try:
        return memory_from_bytes(memory_B.numpy().tobytes())
    except ValueError as error:
        raise ValueError(f"the checkpoint is damaged: {error}") from error


def _facts(text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    _require(isinstance(facts, dict), "its metadata is not a JSON object")
    for name, kind in (_FACTS | {"crc32": int}).items():
        _require(type(facts.get(name)) is kind, f"its {name} is {facts.get(name)!r}"[:100])
    return facts


def _checksum(tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> int:
    shapes = {
        name: list(tensors[name].shape) for name in _TENSORS if name not in _ADDED or len(tensors[name])
    }
    checksum = zlib.crc32(json.dumps([facts, shapes], sort_keys=True).encode())
    for name in _TENSORS:
        checksum = zlib.crc32(tensors[name].numpy().data, checksum)
    return checksum


def _require(is_true: bool, problem: str) -> None:
    if not is_true:
        raise ValueError(f"the checkpoint is damaged: {problem}")
