"""Checkpoints of unfinished clips as bytes, from which another process resumes bit for bit.

They are safetensors files, so reading one runs no code. Noise is a pure function of the seed, the chunk and its
purpose: there is no random generator's state to keep. Chunks that an earlier checkpoint holds are not written again:
the later one names it, and `read_checkpoints` follows these names. Shape suffixes: M finished chunks, F frames, R
colours.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
FORMAT_VERSION = 2
"""Version of the bytes; checkpoints of other versions are refused."""
_TENSORS = {
    "latents_MCHW": torch.float16,
    "x_CHW": torch.float32,
    "compensated_MCHW": torch.float16,
    "confidence_M1HW": torch.float16,
    "shown_FHWR": torch.uint8,
    "memory_B": torch.uint8,
}
_FACTS = {
    "format_version": int,
    "order": str,
    "seed": int,
    "num_before": int,
    "num_earlier": int,
    "earlier": str,
    "step": int,
    "steps_done": int,
    "sampling": dict,
}


@dataclass(frozen=True, kw_only=True)
class ClipCheckpoint:
    """A clip after `step` passes of the model.

    `content_hash` is its spec's, `sampling` its plan's. Of all finished chunks the first `num_before` are from before
    the clip, and the first `num_earlier` are in the checkpoint that is stored as `earlier`, and in those before that.
    `latents` `(M, C, h, w)` float16 are the rest of them, `compensated` what each was generated from; `x` `(C, h, w)`
    float32 is the next one after `steps_done` solver steps. All are empty where there are none. `shown` and `memory`
    are as in `Drawing`.
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
    num_earlier: int = 0
    earlier: str = ""

    @property
    def num_finished(self) -> int:
        """All finished chunks, those of earlier checkpoints included."""
        return self.num_earlier + len(self.latents)

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
            "num_earlier": self.num_earlier,
            "earlier": self.earlier,
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
        for name in ("num_before", "num_earlier", "step", "steps_done"):
            _require(facts[name] >= 0, f"its {name} is {facts[name]}")
        for part, whole, of in (
            ("num_before", facts["num_earlier"] + len(latents), "chunks"),
            ("steps_done", facts["step"], "steps"),
        ):
            _require(facts[part] <= whole, f"{part} = {facts[part]} of {whole} {of}")
        return cls(
            content_hash=facts["order"],
            seed=facts["seed"],
            num_before=facts["num_before"],
            num_earlier=facts["num_earlier"],
            earlier=facts["earlier"],
            step=facts["step"],
            steps_done=facts["steps_done"],
            sampling=build(SamplingConfig, facts["sampling"], "the checkpoint's sampling"),
            latents=latents,
            x=x,
            compensated=_compensated(tensors),
            shown=tensors["shown_FHWR"] if len(tensors["shown_FHWR"]) else None,
            memory=_memory(tensors["memory_B"]),
        )


def read_checkpoints(data: bytes, read: Callable[[str], bytes] | None = None) -> list[ClipCheckpoint]:
    """A checkpoint and those before it that hold its earlier chunks, the oldest first.

    `read` returns the bytes of a stored one by its name. Of all but the newest only the chunks are kept. Raises
    ValueError for one that is damaged, and for one that names another where there is no `read`; and whatever `read`
    raises.
    """
    found = [ClipCheckpoint.from_bytes(data)]
    while found[0].num_earlier:
        later = found[0]
        if read is None:
            raise ValueError(
                f"the checkpoint goes on from {later.earlier!r}: give the way to read that one too"
            )
        kept = ClipCheckpoint.from_bytes(read(later.earlier))
        is_earlier = kept.num_finished == later.num_earlier and len(kept.latents) > 0
        _require(is_earlier, f"it goes on from {later.num_earlier} chunks and {later.earlier!r} has others")
        same = (kept.content_hash, kept.seed, kept.sampling, kept.num_before)
        _require(
            same == (later.content_hash, later.seed, later.sampling, later.num_before),
            f"{later.earlier!r} is of another clip",
        )
        found.insert(0, replace(kept, x=torch.empty(0), shown=None, memory=ViewMemory()))
    return found


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
    shapes = {name: list(tensors[name].shape) for name in _TENSORS}
    checksum = zlib.crc32(json.dumps([facts, shapes], sort_keys=True).encode())
    for name in _TENSORS:
        checksum = zlib.crc32(tensors[name].numpy().data, checksum)
    return checksum


def _require(is_true: bool, problem: str) -> None:
    if not is_true:
        raise ValueError(f"the checkpoint is damaged: {problem}")
