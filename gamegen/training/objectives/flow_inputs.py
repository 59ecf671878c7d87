"""Conditioning of a flow-matching step: previous latents, prompt and controls, as drawn for each window.

Shape suffixes as in `gamegen/flow.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gamegen.models.instructnet import ControlInputs
from gamegen.models.network_inputs import Previous, Text


@dataclass(frozen=True, kw_only=True)
class ControlMix:
    """Relative shares of the windows by what steers them: nothing, keys, instructions in words, video prompts.

    A share with video falls to windows that have one, else to its words alone. The default suits footage with keys;
    GameGen-X (section 3.3) gives 20 % no control and, of the rest, 30 % text and keys, 30 % text, 30 % text and video
    prompt and 10 % all of them.
    """

    nothing: float = 0.22
    keys: float = 0.22
    words: float = 0.06
    words_and_keys: float = 0.5
    words_and_video: float = 0.0
    everything: float = 0.0


class FlowInputs:
    """Conditioning that accompanies the noisy latents: previous latents, prompt, controls."""

    def __init__(self, previous: Previous, prompt: Text, controls: ControlInputs) -> None:
        self.previous, self.prompt, self.controls = previous, prompt, controls

    def rows(self, index: Tensor) -> FlowInputs:
        """The conditioning of some windows of the batch."""
        return FlowInputs(self.previous.rows(index), self.prompt.rows(index), self.controls.rows(index))

    def with_others_keys(self) -> FlowInputs:
        """The conditioning with each window steered by the keys of the next one of the batch."""
        controls = replace(self.controls, operations=self.controls.operations.roll(-1, 0))
        return FlowInputs(self.previous, self.prompt, controls)

    def times(self, take: Callable[[Tensor], Tensor]) -> FlowInputs:
        """The conditioning with `take` applied to every tensor that has a time axis."""
        c = self.controls
        controls = ControlInputs(
            take(c.operations),
            take(c.has_operations),
            c.instruction,
            take(c.instruction_active),
            None if c.video is None else take(c.video),
            c.has_video,
        )
        return FlowInputs(self.previous.map(take), self.prompt, controls)


def draw_controls(mix: ControlMix, num_windows: int, generator: torch.Generator) -> Tensor:
    """Bool `(3, B)`: which windows are steered by words, by keys and by a video prompt, drawn in the mix's shares."""
    shares = {
        (0, 0, 0): mix.nothing,
        (0, 1, 0): mix.keys,
        (1, 0, 0): mix.words,
        (1, 1, 0): mix.words_and_keys,
        (1, 0, 1): mix.words_and_video,
        (1, 1, 1): mix.everything,
    }
    drawn = torch.multinomial(
        torch.tensor(list(shares.values()), dtype=torch.double),
        num_windows,
        replacement=True,
        generator=generator,
    )
    return torch.tensor(list(shares), dtype=torch.bool)[drawn].T


def choose_text(condition_B: Tensor, yes: Text, no: Text) -> Text:
    """Texts of `yes` in the rows where the condition holds, of `no` in the others."""
    length = max(yes.tokens.shape[1], no.tokens.shape[1])
    yes, no = _padded(yes, length), _padded(no, length)
    row = condition_B[:, None]
    return Text(
        torch.where(row[..., None], yes.tokens, no.tokens),
        torch.where(row, yes.mask, no.mask),
        torch.where(row, yes.pooled, no.pooled),
    )


def _padded(text: Text, length: int) -> Text:
    missing = length - text.tokens.shape[1]
    return Text(
        nn.functional.pad(text.tokens, (0, 0, 0, missing)),
        nn.functional.pad(text.mask, (0, missing)),
        text.pooled,
    )
