"""Replay buffer of rollouts: where earlier ones ended, for later ones to go on from.

What a model does a little too much in every chunk shows after dozens of them, and a step has memory and time for a few.
Windows that begin where another rollout ended reach as far as play does, at no cost.

Shape suffixes as in `gamegen/flow.py`; N states, L tokens of a text.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import OPERATION_SIZE
from gamegen.models.folding import from_pixels, to_pixels
from gamegen.models.model import Model
from gamegen.models.motion_compensation import PAST_CHUNKS
from gamegen.models.network_inputs import Text
from gamegen.training.objectives.flow_inputs import choose_text
from gamegen.training.rollout_windows import RolloutBatch

_TEXT_LENGTH = 64
"""Tokens of a text that are kept, enough for a caption."""


class ReplayBuffer:
    """Up to `size` states of worlds of a model's default size: what was shown last, and what was asked for.

    A state is forgotten once its world is `max_chunks` old.
    """

    def __init__(self, model: Model, size: int, max_chunks: int) -> None:
        c, device = model.config, model.device
        assert c.foundation is not None
        width = c.foundation.text_width
        self.max_chunks = max_chunks
        self.frame_size = (c.height, c.width)
        self.age = torch.full((size,), -1, device=device)
        """Chunks since each world's recorded start, -1 where there is none."""
        self.shown = torch.zeros(size, 2, c.height, c.width, 3, dtype=torch.uint8, device=device)
        self.latent = torch.zeros(size, *c.latent_shape, device=device)
        self.operations = torch.zeros(size, PAST_CHUNKS + 1, FRAMES_PER_CHUNK, OPERATION_SIZE, device=device)
        self.active = torch.zeros(size, device=device)
        self.words = [
            Text(
                torch.zeros(size, _TEXT_LENGTH, width, device=device),
                torch.zeros(size, _TEXT_LENGTH, dtype=torch.bool, device=device),
                torch.zeros(size, width, device=device),
            )
            for _ in range(2)
        ]
        """The worlds' prompts, and their instructions."""

    def tensors(self) -> dict[str, Tensor]:
        """All states, by name; `restore` writes them back."""
        texts = {
            f"{name}.{part}": getattr(text, part)
            for name, text in zip(("prompt", "instruction"), self.words, strict=True)
            for part in ("tokens", "mask", "pooled")
        }
        names = ("age", "shown", "latent", "operations", "active")
        return {name: getattr(self, name) for name in names} | texts

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Sets all states to those of `tensors`."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def go_on(
        self, batch: RolloutBatch, prompt: Text, share: float, generator: torch.Generator
    ) -> tuple[RolloutBatch, Text, Tensor]:
        """A share of the windows begins where some earlier rollout ended, under its words and the window's keys.

        Returns the batch, its prompts, and the age `(B,)` of each window's world: 0 for those that begin as recorded.
        """
        B, device = len(batch.latents), self.age.device
        known = (self.age > 0).nonzero()[:, 0]
        is_replayed = (torch.rand(B, generator=generator) < share).to(device)
        draws = torch.rand(B, generator=generator).to(device)
        if not len(known) or not is_replayed.any() or batch.shown.shape[-2:] != self.frame_size:
            return batch, prompt, torch.zeros_like(self.age[:1]).expand(B)
        assert batch.motion is not None
        found = known[(draws * len(known)).long()]

        def replayed(tensor: Tensor, values: Tensor) -> Tensor:
            row = is_replayed.view(-1, *[1] * (tensor.ndim - 1))
            return torch.where(row, values.to(tensor.dtype), tensor)

        c, motion = batch.controls, batch.motion
        # The first chunk stands for the last one of the earlier rollout, and nothing is known of what was before it.
        first = replayed(batch.latents[:, :1], self.latent[found, None])
        operation = replayed(c.operations[:, :1], self.operations[found, -1:])
        past = replayed(motion.past_operations, self.operations[found, :-1])
        batch = replace(
            batch,
            latents=torch.cat([first, batch.latents[:, 1:]], 1),
            shown=replayed(batch.shown, from_pixels(self.shown[found])),
            starts=batch.starts | is_replayed,
            controls=replace(
                c,
                operations=torch.cat([operation, c.operations[:, 1:]], 1),
                instruction=choose_text(is_replayed, self.words[1].rows(found), c.instruction),
                instruction_active=replayed(c.instruction_active, self.active[found, None]),
            ),
            motion=motion._replace(past_operations=past),
        )
        prompt = choose_text(is_replayed, self.words[0].rows(found), prompt)
        return batch, prompt, self.age[found] * is_replayed

    def add(self, batch: RolloutBatch, prompt: Text, ages: Tensor, shown: Tensor, latent: Tensor) -> None:
        """Keeps where the rollouts of a batch ended: the last two frames shown, and the last latents.

        They take the places of the oldest states.
        """
        if batch.shown.shape[-2:] != self.frame_size:
            return
        assert batch.motion is not None
        ages = ages + batch.latents.shape[1] - 1
        order = self.age.argsort(descending=True, stable=True)
        is_free = self.age[order] < 0
        places = torch.cat([order[is_free], order[~is_free]])[: len(ages)]
        rows = slice(0, len(places))
        self.age[places] = torch.where(ages > self.max_chunks, -1, ages)[rows]
        self.shown[places] = to_pixels(shown)[rows]
        self.latent[places] = latent[rows].float()
        done = torch.cat([batch.motion.past_operations, batch.controls.operations], 1)
        self.operations[places] = done[rows, -PAST_CHUNKS - 1 :].float()
        self.active[places] = batch.controls.instruction_active[rows, -1].float()
        for kept, text in zip(self.words, (prompt, batch.controls.instruction), strict=True):
            length = min(text.tokens.shape[1], _TEXT_LENGTH)
            kept.mask[places] = False
            kept.mask[places, :length] = text.mask[rows, :length]
            kept.tokens[places, :length] = text.tokens[rows, :length].float()
            kept.pooled[places] = text.pooled[rows].float()
