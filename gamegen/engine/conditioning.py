"""Conditions that a chunk is generated under: operations, an instruction and its strength, a video prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import OPERATION_SIZE
from gamegen.models.text import TextStates

MAX_BLEND_CHUNKS = 360
"""Longest transition to an instruction, in chunks: a minute."""


@dataclass(frozen=True)
class InstructionState:
    """An instruction and how much of it is in force.

    `gate` is the instruction's strength, from 0 (ignored) to 1 (full). During a transition between two instructions
    `before` is the one that gives way, and `share`, from 0 to 1, the weight of `text` in their blend.
    """

    text: TextStates | None
    gate: float
    before: TextStates | None = None
    share: float = 1.0

    def blended(self) -> TextStates | None:
        """The text that InstructNet reads: a blend of both instructions during a transition, None without any."""
        if self.text is None or self.before is None:
            return self.text
        length = max(len(self.before.tokens), len(self.text.tokens))
        before, after = (_stretched(text.tokens, length) for text in (self.before, self.text))
        pooled = torch.lerp(self.before.pooled, self.text.pooled, self.share)
        return TextStates(torch.lerp(before, after, self.share), pooled)


NO_INSTRUCTION = InstructionState(None, 0.0)


@dataclass(frozen=True)
class Conditioning:
    """Conditions of one chunk.

    `operations` `(4, OPERATION_SIZE)` float32; the state of the instruction; `video`, one latent `(C, h, w)` float16
    of a video prompt, normalised, or None.
    """

    operations: np.ndarray
    instruction: InstructionState = NO_INSTRUCTION
    video: Tensor | None = None


def idle_operations() -> np.ndarray:
    """Operations of a chunk without any input, float32 `(4, OPERATION_SIZE)`."""
    return np.zeros((FRAMES_PER_CHUNK, OPERATION_SIZE), np.float32)


def transition(
    now: InstructionState, instruction: TextStates | None, blend_chunks: int
) -> list[InstructionState]:
    """States of the next chunks on the way from `now` to an instruction, or to none; the last one stays in force.

    The instruction is fully in force `blend_chunks` after the next chunk, in equal steps. If there is none now, its
    gate rises from 0; another instruction is blended into it, so that the world does not fall back to its prompt in
    between. Raises ValueError unless 0 <= `blend_chunks` <= `MAX_BLEND_CHUNKS`.
    """
    if not 0 <= blend_chunks <= MAX_BLEND_CHUNKS:
        raise ValueError(f"blend_chunks = {blend_chunks}: use 0 to {MAX_BLEND_CHUNKS} chunks")
    before = now.blended()
    done = [k / (blend_chunks + 1) for k in range(1, blend_chunks + 1)]
    if instruction is None:
        fading = [InstructionState(before, (1 - share) * now.gate) for share in done if before]
        return [*fading, NO_INSTRUCTION]
    gates = [now.gate + share * (1 - now.gate) for share in done]
    if before is None or _are_equal(before, instruction):
        coming = [InstructionState(instruction, gate) for gate in gates]
    else:
        coming = [
            InstructionState(instruction, gate, before, share)
            for gate, share in zip(gates, done, strict=True)
        ]
    return [*coming, InstructionState(instruction, 1.0)]


def _are_equal(one: TextStates, other: TextStates) -> bool:
    return one is other or torch.equal(one.tokens, other.tokens)


def _stretched(tokens_LD: Tensor, length: int) -> Tensor:
    """`length` tokens, each a copy of one of `tokens_LD`, in their order."""
    return tokens_LD[torch.arange(length) * len(tokens_LD) // length]
