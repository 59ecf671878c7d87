"""What an engine remembers of a session between two chunks, and a chunk on its way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gamegen.models.sampling import SamplingConfig
from gamegen.models.text import TextStates
from gamegen.snapshot import SILENCE, PastChunk, Steering, Words, WorldSnapshot

MAX_BLEND_CHUNKS = 360
"""The longest that words may take to come into force: a minute."""


@dataclass(frozen=True)
class Underway:
    """A chunk on its way: what it is drawn under, its noisy latent `x` `(C, h, w)` float32, and its denoising steps.

    No other chunk of its engine has its `number`.
    """

    number: int
    steering: Steering
    x: Tensor
    steps_done: int
    num_steps: int

    @property
    def is_drawn(self) -> bool:
        """Whether no step is left."""
        return self.steps_done == self.num_steps


@dataclass(frozen=True)
class Manner:
    """How a session is drawn: `sampling`, and what guidance leads away from, nothing said at all if None."""

    sampling: SamplingConfig
    negative: TextStates | None = None


@dataclass
class Session:
    """A session in its cache slot; fields as in `WorldSnapshot`.

    Chunks hold the words themselves, so instructions that no remembered chunk was made under are forgotten.
    """

    slot: int
    seed: int
    prompt: TextStates
    manner: Manner
    version: int = 0
    chunks: list[PastChunk] = field(default_factory=list)
    anchors: list[PastChunk] = field(default_factory=list)
    ahead: list[Words] = field(default_factory=lambda: [SILENCE])
    videos: list[Tensor] = field(default_factory=list)

    def steering(self, operations: np.ndarray) -> Steering:
        """What the next chunk is drawn under."""
        return Steering(operations, self.ahead[0], self.videos[0] if self.videos else None)

    def instruct(self, instruction: TextStates | None, blend_chunks: int) -> None:
        """Changes the words of the chunks to come; see `transition`."""
        now = self.chunks[-1].steering.words if self.chunks else SILENCE
        self.ahead = transition(now, instruction, blend_chunks)

    def remember(self, chunk: PastChunk, keep: int, anchors: int) -> None:
        """Appends a finished chunk and forgets those that no cache entry depends on any more."""
        if len(self.anchors) < anchors:
            self.anchors.append(chunk)
        self.chunks.append(chunk)
        self.version += 1
        del self.chunks[:-keep]

    def advance(self) -> None:
        """Goes on to the words and the video prompt of the chunk after the next."""
        del self.videos[:1]
        if len(self.ahead) > 1:
            del self.ahead[0]

    def snapshot(self) -> WorldSnapshot:
        """The session as it is now."""
        return WorldSnapshot(
            self.seed,
            self.version,
            self.prompt,
            [*self.chunks],
            [*self.anchors],
            [*self.ahead],
            [*self.videos],
        )


def transition(now: Words, instruction: TextStates | None, blend_chunks: int) -> list[Words]:
    """Words of the next chunks on the way to an instruction, or to none; the last ones stay in force.

    All of it is in force `blend_chunks` after the next chunk, and what it comes to, step by equal step, depends on what
    is in force now: nothing gives way by the gate, another instruction by a blend of the two, so that a world does not
    fall back to its prompt in between. Raises ValueError unless `blend_chunks` is within 0 and `MAX_BLEND_CHUNKS`.
    """
    if not 0 <= blend_chunks <= MAX_BLEND_CHUNKS:
        raise ValueError(
            f"blend_chunks = {blend_chunks}: words take 0 to {MAX_BLEND_CHUNKS} chunks to come in"
        )
    before = now.heard()
    done = [k / (blend_chunks + 1) for k in range(1, blend_chunks + 1)]
    if instruction is None:
        return [*(Words(before, (1 - share) * now.gate) for share in done if before), SILENCE]
    gates = [now.gate + share * (1 - now.gate) for share in done]
    if before is None or _are_same(before, instruction):
        coming = [Words(instruction, gate) for gate in gates]
    else:
        coming = [Words(instruction, gate, before, share) for gate, share in zip(gates, done, strict=True)]
    return [*coming, Words(instruction, 1.0)]


def _are_same(one: TextStates, other: TextStates) -> bool:
    return one is other or torch.equal(one.tokens, other.tokens)
