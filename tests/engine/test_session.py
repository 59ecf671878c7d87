"""How words come into force, give way to others and are lifted."""

from __future__ import annotations

import pytest
import torch

from gamegen.engine.conditioning import MAX_BLEND_CHUNKS, NO_INSTRUCTION, InstructionState, transition
from gamegen.models.text import TextStates


def text(seed: int, length: int) -> TextStates:
    tokens = torch.randn(length, 8, generator=torch.Generator().manual_seed(seed))
    return TextStates(tokens, tokens.mean(0))


RAIN, FOG = text(1, 3), text(2, 6)


def test_without_a_blend_words_change_at_once():
    assert transition(NO_INSTRUCTION, RAIN, 0) == [InstructionState(RAIN, 1.0)]
    assert transition(InstructionState(RAIN, 1.0), FOG, 0) == [InstructionState(FOG, 1.0)]
    assert transition(InstructionState(RAIN, 1.0), None, 0) == [NO_INSTRUCTION]


def test_words_come_and_go_by_equal_steps():
    assert transition(NO_INSTRUCTION, RAIN, 3) == [
        InstructionState(RAIN, gate) for gate in (0.25, 0.5, 0.75, 1.0)
    ]
    assert transition(InstructionState(RAIN, 1.0), None, 3) == [
        *(InstructionState(RAIN, gate) for gate in (0.75, 0.5, 0.25)),
        NO_INSTRUCTION,
    ]
    # From half way on, and the same words said again, as other objects, by another step.
    again = TextStates(RAIN.tokens.clone(), RAIN.pooled.clone())
    assert [words.gate for words in transition(InstructionState(RAIN, 0.5), again, 1)] == [0.75, 1.0]
    assert transition(NO_INSTRUCTION, None, 2) == [NO_INSTRUCTION]


def test_other_words_take_over_without_silence_in_between():
    coming = transition(InstructionState(RAIN, 1.0), FOG, 3)
    assert [words.gate for words in coming] == [1.0] * 4
    assert [words.share for words in coming] == [0.25, 0.5, 0.75, 1.0]
    first, half, last = (coming[i].blended() for i in (0, 1, 3))
    assert first is not None and half is not None and last is FOG
    doubled = RAIN.tokens.repeat_interleave(2, 0)
    torch.testing.assert_close(half.tokens, (doubled + FOG.tokens) / 2)
    torch.testing.assert_close(first.pooled, 0.75 * RAIN.pooled + 0.25 * FOG.pooled)


def test_a_change_of_mind_begins_from_what_is_in_force():
    amid = transition(InstructionState(RAIN, 0.5), FOG, 1)[0]
    assert amid == InstructionState(FOG, 0.75, RAIN, 0.5)
    back = transition(amid, RAIN, 1)
    blend, found = amid.blended(), back[0].blended()
    assert blend is not None and found is not None
    assert back[0].gate == 0.875 and back[1] == InstructionState(RAIN, 1.0)
    torch.testing.assert_close(found.pooled, (blend.pooled + RAIN.pooled) / 2)
    lifted = transition(amid, None, 1)[0]
    assert lifted.gate == 0.375 and lifted.text is not None and lifted.text.tokens.equal(blend.tokens)


@pytest.mark.parametrize("chunks", [-1, MAX_BLEND_CHUNKS + 1])
def test_blends_have_a_longest_length(chunks):
    with pytest.raises(ValueError, match=f"blend_chunks = {chunks}: use 0 to {MAX_BLEND_CHUNKS} chunks"):
        transition(NO_INSTRUCTION, RAIN, chunks)
