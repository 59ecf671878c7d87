"""Snapshots: the complete state of a session at a chunk boundary, from which another engine continues it.

As bytes a snapshot is a safetensors file, so reading one executes nothing. Shape suffixes: M kept chunks (anchors
first), V latents of video prompts (those of the chunks, then the upcoming ones), W instruction states (those of the
chunks, then the upcoming ones), N texts (the prompt first), L tokens of all texts together, D their width, F frames.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import save
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK, SPATIAL_FACTOR
from gamegen.controls import OPERATION_SIZE
from gamegen.device import one_thread
from gamegen.engine.conditioning import Conditioning, InstructionState
from gamegen.engine.memory_bytes import as_tensor, memory_from_bytes, memory_to_bytes
from gamegen.models.motion_compensation import Compensated
from gamegen.models.text import TextStates
from gamegen.models.view_memory import ViewMemory

_KEY = "gamegen world snapshot"
FORMAT_VERSION = 1
"""Version of the byte format; other versions are refused."""
_MAX_COUNT = 2**53
# The letters at the end of a name are its axes.
_TENSORS = {
    "latents_MCHW": torch.float16,
    "operations_M4O": torch.float32,
    "has_video_M": torch.int32,
    "videos_VCHW": torch.float16,
    "words_W": torch.int32,
    "gates_W": torch.float64,
    "words_before_W": torch.int32,
    "shares_W": torch.float64,
    "lengths_N": torch.int32,
    "tokens_LD": torch.float32,
    "pooled_ND": torch.float32,
    "compensated_MCHW": torch.float16,
    "confidence_M1HW": torch.float16,
    "shown_FHWR": torch.uint8,
    "memory_B": torch.uint8,
}
_ADDED = {"compensated_MCHW", "confidence_M1HW", "shown_FHWR", "memory_B"}
"""Tensors that older snapshots lack, and that are empty for models that need none."""
_NAMES = {
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int32: "I32",
    torch.uint8: "U8",
}


@dataclass(frozen=True)
class PastChunk:
    """A finished chunk: its latent `(C, h, w)` float16, normalised, and the conditions it was generated under.

    `compensated` is the motion-compensated latent that it was generated from, `(C, h, w)` and `(1, h, w)` float16,
    normalised; None for models that are given none, and for chunks that were given to the session.
    """

    latent: Tensor
    conditioning: Conditioning
    compensated: Compensated | None = None


@dataclass(frozen=True, kw_only=True)
class WorldSnapshot:
    """A session at a chunk boundary, after `version` chunks.

    `chunks` are the last of them, as many as any cache entry depends on, and `anchors` the first of the stream.
    `upcoming` are the instruction states of the next chunks, one each and at least one; the last one stays in force.
    `videos` are the latents left of a video prompt, one for each of the next chunks. `shown` are the last two frames
    that were shown, uint8 `(2, H, W, 3)`, for models that follow them; where they are lost, they are shown again.
    `memory` are the views that it keeps.
    """

    seed: int
    version: int
    prompt: TextStates
    chunks: list[PastChunk]
    anchors: list[PastChunk]
    upcoming: list[InstructionState]
    videos: list[Tensor] = field(default_factory=list)
    shown: Tensor | None = None
    memory: ViewMemory = field(default_factory=ViewMemory)

    @one_thread()
    def to_bytes(self) -> bytes:
        """Serialises the snapshot for any release with the same `FORMAT_VERSION`."""
        kept = [*self.anchors, *self.chunks]
        states = [*(chunk.conditioning.instruction for chunk in kept), *self.upcoming]
        chunk_videos = [chunk.conditioning.video for chunk in kept]
        videos = [video for video in (*chunk_videos, *self.videos) if video is not None]
        parts = [part for state in states for part in (state.text, state.before)]
        # Equal texts are told apart by identity: an instruction is stored once, however many chunks refer to it.
        texts = {id(text): text for text in (self.prompt, *parts) if text}
        place = {id(None): -1} | {key: i for i, key in enumerate(texts)}
        tensors = {
            "latents_MCHW": torch.stack([chunk.latent for chunk in kept]) if kept else torch.empty(0),
            "operations_M4O": torch.from_numpy(np.array([chunk.conditioning.operations for chunk in kept])),
            "has_video_M": torch.tensor([video is not None for video in chunk_videos]),
            "videos_VCHW": torch.stack(videos) if videos else torch.empty(0),
            "words_W": torch.tensor([place[id(state.text)] for state in states]),
            "gates_W": torch.tensor([state.gate for state in states], dtype=torch.float64),
            "words_before_W": torch.tensor([place[id(state.before)] for state in states]),
            "shares_W": torch.tensor([state.share for state in states], dtype=torch.float64),
            "lengths_N": torch.tensor([len(text.tokens) for text in texts.values()]),
            "tokens_LD": torch.cat([text.tokens for text in texts.values()]),
            "pooled_ND": torch.stack([text.pooled for text in texts.values()]),
            **_shown_tensors(kept, self.shown),
            "memory_B": as_tensor(memory_to_bytes(self.memory)),
        }
        tensors = {name: tensors[name].to(dtype).contiguous() for name, dtype in _TENSORS.items()}
        facts = {
            "format_version": FORMAT_VERSION,
            "seed": self.seed,
            "version": self.version,
            "anchors": len(self.anchors),
        }
        return save(tensors, {_KEY: json.dumps(facts | {"crc32": _checksum(tensors, facts)})})

    @staticmethod
    @one_thread()
    def from_bytes(data: bytes) -> WorldSnapshot:
        """The inverse of `to_bytes`.

        Raises ValueError, which names the fault, for bytes that are damaged, of another format version or not a
        snapshot.
        """
        facts, tensors = _read(data)
        seed, version, num_anchors = (facts[name] for name in ("seed", "version", "anchors"))
        texts = _texts(tensors)
        states = _instruction_states(tensors, texts)
        latents, operations = tensors["latents_MCHW"], tensors["operations_M4O"].numpy()
        chunk_videos, videos = _videos(tensors)
        kept = [
            PastChunk(latent, Conditioning(done, instruction, video), compensated)
            for latent, done, instruction, video, compensated in zip(
                latents, operations, states[: len(latents)], chunk_videos, _compensated(tensors), strict=True
            )
        ]
        _require(num_anchors <= len(kept), f"{num_anchors} anchors in {len(kept)} chunks")
        anchors, chunks = kept[:num_anchors], kept[num_anchors:]
        _require(
            len(chunks) <= version and len(anchors) <= version, "it holds more chunks than were generated"
        )
        _require(bool(chunks) or version == 0, "it holds no chunks")
        return WorldSnapshot(
            seed=seed,
            version=version,
            prompt=texts[0],
            chunks=chunks,
            anchors=anchors,
            upcoming=states[len(kept) :],
            videos=videos,
            shown=tensors["shown_FHWR"] if len(tensors["shown_FHWR"]) else None,
            memory=_memory(tensors["memory_B"]),
        )

    def check_fits(self, latent_shape: tuple[int, int, int], text_width: int) -> None:
        """Raises ValueError unless a model of this latent shape (C, h, w) and text width can continue it."""
        kept = (*self.anchors, *self.chunks)
        latents = [*(chunk.latent for chunk in kept), *self.videos]
        latents += [chunk.compensated.latent for chunk in kept if chunk.compensated]
        for shape in {tuple(latent.shape) for latent in latents} - {latent_shape}:
            raise ValueError(f"the snapshot has latents of shape {shape}: this world's are {latent_shape}")
        size = tuple(SPATIAL_FACTOR * side for side in latent_shape[1:])
        if self.shown is not None and tuple(self.shown.shape) != (2, *size, 3):
            raise ValueError(
                f"the snapshot has frames of shape {tuple(self.shown.shape)}: this world's are {(2, *size, 3)}"
            )
        self.memory.check_size(size)
        width = self.prompt.tokens.shape[1]
        if width != text_width:
            raise ValueError(f"the snapshot has texts of width {width}: this world's have width {text_width}")


def _read(data: bytes) -> tuple[dict[str, int], dict[str, Tensor]]:
    """The facts in a snapshot's header, and its tensors with dtypes and ranks checked."""
    try:
        views = dict(deserialize(data))
    except SafetensorError as error:
        raise ValueError(f"the snapshot is truncated, damaged or not a snapshot ({error})") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text = header.get("__metadata__", {}).get(_KEY)
    if text is None:
        raise ValueError("this safetensors file is not a world snapshot")
    facts = _facts(text)
    if facts["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"the snapshot has format version {facts['format_version']} and this release reads {FORMAT_VERSION}: "
            "continue the session with the release that made it"
        )
    given = set(views) | _ADDED
    _require(given == set(_TENSORS), f"its tensors are {', '.join(sorted(views)) or 'none'}")
    tensors = {name: _tensor(name, views.get(name, _empty(dtype))) for name, dtype in _TENSORS.items()}
    _require(facts.pop("crc32") == _checksum(tensors, facts), "checksum mismatch")
    return facts, tensors


def _empty(dtype: torch.dtype) -> dict:
    return {"dtype": _NAMES[dtype], "shape": [0], "data": b""}


def _tensor(name: str, view: dict) -> Tensor:
    dtype, shape = _TENSORS[name], view["shape"]
    _require(view["dtype"] == _NAMES[dtype], f"{name} has type {view['dtype']}")
    rank = len(name.rpartition("_")[2])
    if not view["data"]:
        return torch.empty(0, *[1] * (rank - 1), dtype=dtype)
    _require(len(shape) == rank, f"{name} has shape {shape}")
    tensor = torch.frombuffer(view["data"], dtype=dtype).reshape(shape)
    _require(bool(tensor.isfinite().all()), f"{name} contains NaN or infinity")
    return tensor


def _memory(memory_B: Tensor) -> ViewMemory:
    try:
        return memory_from_bytes(memory_B.numpy().tobytes())
    except ValueError as error:
        raise ValueError(f"the snapshot is damaged: {error}") from error


def _texts(tensors: dict[str, Tensor]) -> list[TextStates]:
    lengths_N, tokens_LD, pooled_ND = (tensors[name] for name in ("lengths_N", "tokens_LD", "pooled_ND"))
    lengths = lengths_N.tolist()
    _require(
        bool(lengths) and min(lengths) > 0 and sum(lengths) == len(tokens_LD), "its texts are incomplete"
    )
    _require(pooled_ND.shape == (len(lengths), tokens_LD.shape[1]), "its texts have different widths")
    return [
        TextStates(tokens, pooled) for tokens, pooled in zip(tokens_LD.split(lengths), pooled_ND, strict=True)
    ]


def _instruction_states(tensors: dict[str, Tensor], texts: Sequence[TextStates]) -> list[InstructionState]:
    """Instruction states of the kept chunks, then the upcoming ones."""
    latents_MCHW, operations_M4O = tensors["latents_MCHW"], tensors["operations_M4O"]
    columns = [tensors[name].tolist() for name in ("words_W", "gates_W", "words_before_W", "shares_W")]
    current, gates, before, shares = columns
    num_chunks = len(latents_MCHW)
    _require(
        len(operations_M4O) == num_chunks
        and (not num_chunks or operations_M4O.shape[1:] == (FRAMES_PER_CHUNK, OPERATION_SIZE)),
        f"operations of shape {tuple(operations_M4O.shape)} for {num_chunks} chunks",
    )
    _require({len(column) for column in columns} == {len(current)}, "its instructions are incomplete")
    _require(len(current) > num_chunks, f"{len(current)} instructions for {num_chunks} chunks")
    _require(
        all(-1 <= i < len(texts) for i in (*current, *before)), "an instruction refers to a missing text"
    )
    _require(
        all(0 <= x <= 1 for x in (*gates, *shares)), "an instruction's gate or share is not within 0 and 1"
    )
    known: list[TextStates | None] = [*texts, None]
    return [
        InstructionState(known[i], gate, known[j], share) for i, gate, j, share in zip(*columns, strict=True)
    ]


def _shown_tensors(kept: Sequence[PastChunk], shown: Tensor | None) -> dict[str, Tensor]:
    """Tensors of the kept chunks' motion-compensated latents and of the last frames; empty where there are none."""
    given = [chunk.compensated for chunk in kept if chunk.compensated]
    # All or none: a session's first chunks are given theirs when they are entered.
    is_whole = bool(given) and len(given) == len(kept)
    return {
        "compensated_MCHW": torch.stack([each.latent for each in given]) if is_whole else torch.empty(0),
        "confidence_M1HW": torch.stack([each.confidence for each in given]) if is_whole else torch.empty(0),
        "shown_FHWR": torch.empty(0) if shown is None else shown,
    }


def _compensated(tensors: dict[str, Tensor]) -> list[Compensated | None]:
    """Motion-compensated latents of each kept chunk; None for models without motion compensation."""
    latents, compensated, confidence = (
        tensors[name] for name in ("latents_MCHW", "compensated_MCHW", "confidence_M1HW")
    )
    if not len(compensated) and not len(confidence):
        return [None] * len(latents)
    _require(
        compensated.shape == latents.shape and confidence.shape == latents[:, :1].shape,
        f"motion-compensated latents of shape {tuple(compensated.shape)} for latents of {tuple(latents.shape)}",
    )
    return [Compensated(*pair) for pair in zip(compensated, confidence, strict=True)]


def _videos(tensors: dict[str, Tensor]) -> tuple[list[Tensor | None], list[Tensor]]:
    """The kept chunks' latents of a video prompt, None for chunks without one, and the upcoming latents."""
    latents_MCHW, videos_VCHW = tensors["latents_MCHW"], tensors["videos_VCHW"]
    has_video = tensors["has_video_M"].tolist()
    _require(len(has_video) == len(latents_MCHW), "its flags of video prompts are incomplete")
    _require(
        set(has_video) <= {0, 1} and sum(has_video) <= len(videos_VCHW), "its video prompts are incomplete"
    )
    of_same_size = (
        not (len(latents_MCHW) and len(videos_VCHW)) or latents_MCHW.shape[1:] == videos_VCHW.shape[1:]
    )
    _require(of_same_size, "its video prompts have another size")
    rest = iter(videos_VCHW)
    return [next(rest) if has else None for has in has_video], list(rest)


def _facts(text: str) -> dict[str, int]:
    """The header's facts; raises ValueError if one is missing or out of range."""
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    _require(isinstance(facts, dict), "its header is not a JSON object")
    for name in ("format_version", "seed", "version", "anchors", "crc32"):
        _require(type(facts.get(name)) is int, f"its {name} is {facts.get(name)!r}"[:100])
        _require(name == "seed" or 0 <= facts[name] < _MAX_COUNT, f"its {name} is out of range")
    return facts


def _checksum(tensors: dict[str, Tensor], facts: dict[str, int]) -> int:
    checksum = zlib.crc32(json.dumps(sorted(facts.items())).encode())
    for name in _TENSORS:
        checksum = zlib.crc32(tensors[name].numpy().data, checksum)
    return checksum


def _require(is_true: bool, otherwise: str) -> None:
    if not is_true:
        raise ValueError(f"the snapshot is damaged: {otherwise}")
