"""How words come into force, give way to others and are lifted."""

from __future__ import annotations

import pytest
import torch

from gamegen.models.text import TextStates
from gamegen.session import MAX_BLEND_CHUNKS, transition
from gamegen.snapshot import SILENCE, Words


def text(seed: int, length: int) -> TextStates:
    tokens = torch.randn(length, 8, generator=torch.Generator().manual_seed(seed))
    return TextStates(tokens, tokens.mean(0))


RAIN, FOG = text(1, 3), text(2, 6)


def test_without_a_blend_words_change_at_once():
    assert transition(SILENCE, RAIN, 0) == [Words(RAIN, 1.0)]
    assert transition(Words(RAIN, 1.0), FOG, 0) == [Words(FOG, 1.0)]
    assert transition(Words(RAIN, 1.0), None, 0) == [SILENCE]


def test_words_come_and_go_by_equal_steps():
    assert transition(SILENCE, RAIN, 3) == [Words(RAIN, gate) for gate in (0.25, 0.5, 0.75, 1.0)]
    assert transition(Words(RAIN, 1.0), None, 3) == [
        *(Words(RAIN, gate) for gate in (0.75, 0.5, 0.25)),
        SILENCE,
    ]
    # From half way on, and the same words said again, as other objects, by another step.
    again = TextStates(RAIN.tokens.clone(), RAIN.pooled.clone())
    assert [words.gate for words in transition(Words(RAIN, 0.5), again, 1)] == [0.75, 1.0]
    assert transition(SILENCE, None, 2) == [SILENCE]


def test_other_words_take_over_without_silence_in_between():
    coming = transition(Words(RAIN, 1.0), FOG, 3)
    assert [words.gate for words in coming] == [1.0] * 4
    assert [words.share for words in coming] == [0.25, 0.5, 0.75, 1.0]
    first, half, last = (coming[i].heard() for i in (0, 1, 3))
    assert first is not None and half is not None and last is FOG
    doubled = RAIN.tokens.repeat_interleave(2, 0)
    torch.testing.assert_close(half.tokens, (doubled + FOG.tokens) / 2)
    torch.testing.assert_close(first.pooled, 0.75 * RAIN.pooled + 0.25 * FOG.pooled)


def test_a_change_of_mind_begins_from_what_is_in_force():
    amid = transition(Words(RAIN, 0.5), FOG, 1)[0]
    assert amid == Words(FOG, 0.75, RAIN, 0.5)
    back = transition(amid, RAIN, 1)
    blend, heard = amid.heard(), back[0].heard()
    assert blend is not None and heard is not None
    assert back[0].gate == 0.875 and back[1] == Words(RAIN, 1.0)
    torch.testing.assert_close(heard.pooled, (blend.pooled + RAIN.pooled) / 2)
    lifted = transition(amid, None, 1)[0]
    assert lifted.gate == 0.375 and lifted.text is not None and lifted.text.tokens.equal(blend.tokens)


@pytest.mark.parametrize("chunks", [-1, MAX_BLEND_CHUNKS + 1])
def test_blends_have_a_longest_length(chunks):
    with pytest.raises(
        ValueError, match=f"blend_chunks = {chunks}: words take 0 to {MAX_BLEND_CHUNKS} chunks"
    ):
        transition(SILENCE, RAIN, chunks)
