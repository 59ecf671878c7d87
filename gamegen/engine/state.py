"""State of a session between two chunks, and of a chunk between two denoising steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from gamegen.engine.conditioning import NO_INSTRUCTION, Conditioning, InstructionState, transition
from gamegen.engine.latent_decoder import StreamPast
from gamegen.engine.snapshot import PastChunk, WorldSnapshot
from gamegen.models.sampling import SamplingConfig
from gamegen.models.streaming_decoder import Reference
from gamegen.models.text import TextStates
from gamegen.models.view_memory import ViewMemory

_SETTLED_CHUNKS = 18
"""Chunks, three seconds, in which what an instruction asks for has come."""


@dataclass(frozen=True)
class DenoisingState:
    """A chunk between two denoising steps: its conditions, its noisy latent `x` `(C, h, w)` float32, its progress.

    `number` is unique among the chunks of an engine.
    """

    number: int
    conditioning: Conditioning
    x: Tensor
    steps_done: int
    num_steps: int

    @property
    def is_done(self) -> bool:
        """True after the last denoising step."""
        return self.steps_done == self.num_steps


@dataclass(frozen=True)
class ChunkReference:
    """Decoder reference of the chunk after `version`, float16, None if it has none, and the memory after it."""

    version: int
    reference: Reference | None
    memory: ViewMemory


@dataclass(frozen=True)
class SamplingParams:
    """Sampling of one session: its `sampling`, and the negative prompt of guidance, None for the empty text."""

    sampling: SamplingConfig
    negative: TextStates | None = None


@dataclass(kw_only=True)
class Session:
    """A session in its cache slot; fields as in `WorldSnapshot`.

    Chunks hold their instructions themselves, so instructions that no kept chunk was generated under are freed.
    `past` is the stream before the last chunk, whose `frames`, uint8 `(4, H, W, 3)`, are None until it is decoded; of a
    restored session they are the last two.
    `reference` is that of the chunk that is being drawn or was drawn last, kept for its decoding.
    """

    seed: int
    prompt: TextStates
    params: SamplingParams
    slot: int = -1
    version: int = 0
    chunks: list[PastChunk] = field(default_factory=list)
    anchors: list[PastChunk] = field(default_factory=list)
    upcoming: list[InstructionState] = field(default_factory=lambda: [NO_INSTRUCTION])
    videos: list[Tensor] = field(default_factory=list)
    past: StreamPast = field(default_factory=StreamPast)
    frames: Tensor | None = None
    reference: ChunkReference | None = None
    memory: ViewMemory = field(default_factory=ViewMemory)

    def conditioning(self, operations: np.ndarray) -> Conditioning:
        """Conditions of the next chunk."""
        return Conditioning(operations, self.upcoming[0], self.videos[0] if self.videos else None)

    def instruct(self, instruction: TextStates | None, blend_chunks: int) -> None:
        """Replaces the instruction of the next chunks; see `transition`."""
        now = self.chunks[-1].conditioning.instruction if self.chunks else NO_INSTRUCTION
        self.upcoming = transition(now, instruction, blend_chunks)

    def append(self, chunk: PastChunk, keep: int, anchors: int) -> None:
        """Adds a finished chunk, and drops those before the last `keep`, on which no cache entry depends."""
        if len(self.anchors) < anchors:
            self.anchors.append(chunk)
        if self.chunks:
            self.past = self.upto_last
        self.memory = self.next_memory
        self.chunks.append(chunk)
        self.frames = None
        self.version += 1
        del self.chunks[:-keep]

    @property
    def next_memory(self) -> ViewMemory:
        """The memory after the chunk that is being drawn, if that is known already."""
        if self.reference is not None and self.reference.version == self.version:
            return self.reference.memory
        return self.memory

    @property
    def is_changing(self) -> bool:
        """True if the next chunk's instruction has not been in force for long enough to show in full."""
        now = self.upcoming[0]
        before = [chunk.conditioning.instruction for chunk in self.chunks[-_SETTLED_CHUNKS:]]
        is_settled = len(before) == _SETTLED_CHUNKS and all(each.text is now.text for each in before)
        return now.gate > 0 and not is_settled

    @property
    def upto_last(self) -> StreamPast:
        """The stream up to the last chunk, with that one's frames if it is decoded."""
        if not self.chunks:
            return self.past
        return self.past.next(self.chunks[-1].latent, self.frames, self.chunks[-1].conditioning.operations)

    def advance(self) -> None:
        """Moves on to the instruction and the video latent of the chunk after the next."""
        del self.videos[:1]
        if len(self.upcoming) > 1:
            del self.upcoming[0]

    def snapshot(self) -> WorldSnapshot:
        """The session as it is now."""
        return WorldSnapshot(
            seed=self.seed,
            version=self.version,
            prompt=self.prompt,
            chunks=[*self.chunks],
            anchors=[*self.anchors],
            upcoming=[*self.upcoming],
            videos=[*self.videos],
            shown=self.upto_last.frames,
            memory=self.memory,
        )
