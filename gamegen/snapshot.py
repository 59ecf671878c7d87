"""All there is to know of a session at a chunk boundary: what another engine continues it from.

As bytes a snapshot is a safetensors file, so reading one runs nothing that is in it. Shape suffixes: M remembered
chunks (anchors first), V latents of video prompts (those of the chunks, then those ahead), W words (those of the
chunks, then those ahead), N texts (the prompt first), L tokens of all texts together, D their width.
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

from gamegen.controls import FRAMES_PER_CHUNK, OPERATION_SIZE
from gamegen.device import one_thread
from gamegen.models.text import TextStates

_KEY = "gamegen world snapshot"
FORMAT_VERSION = 1
"""That of the bytes; those of another version are refused."""
_MAX_COUNT = 2**53
# Letters at the end of a name are its axes.
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
}
_NAMES = {torch.float16: "F16", torch.float32: "F32", torch.float64: "F64", torch.int32: "I32"}


@dataclass(frozen=True)
class Words:
    """An instruction and how much of it is in force, `gate`, 0 (nothing) to 1 (all of it).

    While one instruction gives way to another, `before` is the former and `share`, 0 to 1, that of the latter.
    """

    text: TextStates | None
    gate: float
    before: TextStates | None = None
    share: float = 1.0

    def heard(self) -> TextStates | None:
        """The instruction as the networks hear it, a blend of both while there are two."""
        if self.text is None or self.before is None:
            return self.text
        length = max(len(self.before.tokens), len(self.text.tokens))
        before, after = (_stretched(text.tokens, length) for text in (self.before, self.text))
        pooled = torch.lerp(self.before.pooled, self.text.pooled, self.share)
        return TextStates(torch.lerp(before, after, self.share), pooled)


SILENCE = Words(None, 0.0)
"""No instruction at all."""


@dataclass(frozen=True)
class Steering:
    """What a chunk is drawn under: `operations` `(4, O)` float32, words, and its part of a video prompt, a latent
    `(C, h, w)` float16, normalised, if there is one."""

    operations: np.ndarray
    words: Words = SILENCE
    video: Tensor | None = None


@dataclass(frozen=True)
class PastChunk:
    """A chunk that was made, `latent` `(C, h, w)` float16, normalised, and what it was drawn under."""

    latent: Tensor
    steering: Steering


@dataclass(frozen=True)
class WorldSnapshot:
    """A session at a chunk boundary, after `version` chunks.

    `chunks` are the last of them, so many that everything cached depends on nothing older, and `anchors` the first of
    the stream. `ahead` are the words of the chunks to come, one each and at least one; the last stays in force.
    `videos` is what is left of a video prompt, one latent for each of the chunks to come.
    """

    seed: int
    version: int
    prompt: TextStates
    chunks: list[PastChunk]
    anchors: list[PastChunk]
    ahead: list[Words]
    videos: list[Tensor] = field(default_factory=list)

    @one_thread()
    def to_bytes(self) -> bytes:
        """Serialised for another replica, of this release or one with the same `FORMAT_VERSION`."""
        made = [*self.anchors, *self.chunks]
        said = [*(chunk.steering.words for chunk in made), *self.ahead]
        seen = [chunk.steering.video for chunk in made]
        videos = [video for video in (*seen, *self.videos) if video is not None]
        parts = [part for words in said for part in (words.text, words.before)]
        texts = {id(text): text for text in (self.prompt, *parts) if text}
        place = {id(None): -1} | {key: i for i, key in enumerate(texts)}
        tensors = {
            "latents_MCHW": torch.stack([chunk.latent for chunk in made]) if made else torch.empty(0),
            "operations_M4O": torch.from_numpy(np.array([chunk.steering.operations for chunk in made])),
            "has_video_M": torch.tensor([video is not None for video in seen]),
            "videos_VCHW": torch.stack(videos) if videos else torch.empty(0),
            "words_W": torch.tensor([place[id(words.text)] for words in said]),
            "gates_W": torch.tensor([words.gate for words in said], dtype=torch.float64),
            "words_before_W": torch.tensor([place[id(words.before)] for words in said]),
            "shares_W": torch.tensor([words.share for words in said], dtype=torch.float64),
            "lengths_N": torch.tensor([len(text.tokens) for text in texts.values()]),
            "tokens_LD": torch.cat([text.tokens for text in texts.values()]),
            "pooled_ND": torch.stack([text.pooled for text in texts.values()]),
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

        Raises ValueError, which names what is wrong, for bytes that are damaged, of another format version or no
        snapshot at all.
        """
        facts, tensors = _read(data)
        seed, version, num_anchors = (facts[name] for name in ("seed", "version", "anchors"))
        texts = _texts(tensors)
        said = _words(tensors, texts)
        latents, operations = tensors["latents_MCHW"], tensors["operations_M4O"].numpy()
        seen, videos = _videos(tensors)
        made = [
            PastChunk(latent, Steering(*steering))
            for latent, *steering in zip(latents, operations, said[: len(latents)], seen, strict=True)
        ]
        _require(num_anchors <= len(made), "anchors that are not there")
        anchors, chunks = made[:num_anchors], made[num_anchors:]
        _require(len(chunks) <= version and len(anchors) <= version, "more chunks than were made")
        _require(bool(chunks) or version == 0, "no chunk is remembered")
        return WorldSnapshot(seed, version, texts[0], chunks, anchors, said[len(made) :], videos)


def _read(data: bytes) -> tuple[dict[str, int], dict[str, Tensor]]:
    """What a snapshot says of itself, and its tensors, in the types and sizes that belong together."""
    try:
        views = dict(deserialize(data))
    except SafetensorError as error:
        raise ValueError(f"the snapshot is cut off, damaged or none at all ({error})") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    told = header.get("__metadata__", {}).get(_KEY)
    if told is None:
        raise ValueError("these tensors are no snapshot of a world")
    facts = _facts(told)
    if facts["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"the snapshot has format version {facts['format_version']} and this release reads {FORMAT_VERSION}: "
            "continue the session with the release that made it"
        )
    _require(set(views) == set(_TENSORS), f"its tensors are {', '.join(sorted(views)) or 'none'}")
    tensors = {name: _tensor(name, views[name]) for name in _TENSORS}
    _require(facts.pop("crc32") == _checksum(tensors, facts), "its checksum is another")
    return facts, tensors


def _tensor(name: str, view: dict) -> Tensor:
    dtype, shape = _TENSORS[name], view["shape"]
    _require(view["dtype"] == _NAMES[dtype], f"{name} has type {view['dtype']}")
    rank = len(name.rpartition("_")[2])
    if not view["data"]:
        return torch.empty(0, *[1] * (rank - 1), dtype=dtype)
    _require(len(shape) == rank, f"{name} has shape {shape}")
    tensor = torch.frombuffer(view["data"], dtype=dtype).reshape(shape)
    _require(bool(tensor.isfinite().all()), f"{name} has values that are no numbers")
    return tensor


def _texts(tensors: dict[str, Tensor]) -> list[TextStates]:
    lengths_N, tokens_LD, pooled_ND = (tensors[name] for name in ("lengths_N", "tokens_LD", "pooled_ND"))
    lengths = lengths_N.tolist()
    _require(
        bool(lengths) and min(lengths) > 0 and sum(lengths) == len(tokens_LD), "its texts are incomplete"
    )
    _require(pooled_ND.shape == (len(lengths), tokens_LD.shape[1]), "its texts are of several widths")
    return [TextStates(*states) for states in zip(tokens_LD.split(lengths), pooled_ND, strict=True)]


def _words(tensors: dict[str, Tensor], texts: Sequence[TextStates]) -> list[Words]:
    """Words of the remembered chunks, then those ahead."""
    latents_MCHW, operations_M4O = tensors["latents_MCHW"], tensors["operations_M4O"]
    columns = [tensors[name].tolist() for name in ("words_W", "gates_W", "words_before_W", "shares_W")]
    words, gates, before, shares = columns
    num_made = len(latents_MCHW)
    _require(
        len(operations_M4O) == num_made
        and (not num_made or operations_M4O.shape[1:] == (FRAMES_PER_CHUNK, OPERATION_SIZE)),
        f"operations of shape {tuple(operations_M4O.shape)} for {num_made} chunks",
    )
    _require({len(column) for column in columns} == {len(words)}, "some of its words are incomplete")
    _require(len(words) > num_made, f"{len(words)} words for {num_made} chunks")
    _require(all(-1 <= i < len(texts) for i in (*words, *before)), "words that are not there")
    _require(all(0 <= x <= 1 for x in (*gates, *shares)), "a share of words that is not within 0 and 1")
    known: list[TextStates | None] = [*texts, None]
    return [Words(known[i], gate, known[j], share) for i, gate, j, share in zip(*columns, strict=True)]


def _videos(tensors: dict[str, Tensor]) -> tuple[list[Tensor | None], list[Tensor]]:
    """What the remembered chunks saw of a video prompt, and what is left of it."""
    latents_MCHW, videos_VCHW = tensors["latents_MCHW"], tensors["videos_VCHW"]
    has_video = tensors["has_video_M"].tolist()
    _require(len(has_video) == len(latents_MCHW), "it does not say which chunks saw a video prompt")
    _require(set(has_video) <= {0, 1} and sum(has_video) <= len(videos_VCHW), "video prompts are incomplete")
    of_same_size = (
        not (len(latents_MCHW) and len(videos_VCHW)) or latents_MCHW.shape[1:] == videos_VCHW.shape[1:]
    )
    _require(of_same_size, "video prompts of another size")
    rest = iter(videos_VCHW)
    return [next(rest) if has else None for has in has_video], list(rest)


def _facts(told: str) -> dict[str, int]:
    try:
        facts = json.loads(told)
    except (ValueError, RecursionError):
        facts = None
    _require(isinstance(facts, dict), "it does not say what it is")
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


def _stretched(tokens_LD: Tensor, length: int) -> Tensor:
    """As many tokens as are asked for, each one of those given, in their order."""
    return tokens_LD[torch.arange(length) * len(tokens_LD) // length]
