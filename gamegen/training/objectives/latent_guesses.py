"""Latents as a model's diffusion transformer draws them in play, for the decoder to learn from.

Shape suffixes as in `gamegen/flow.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.flow import add_noise, expand_levels, schedule
from gamegen.models.instructnet import ControlInputs
from gamegen.models.model import Model
from gamegen.models.network_inputs import Previous, Text
from gamegen.models.streaming_decoder import Reference


@dataclass(frozen=True)
class LatentGuesses:
    """Which of B windows have guessed latents, and what they are guessed from.

    `rows` are their numbers; `levels` the noise levels `(B, T)` of the flow's Euler steps, the last of which is zeros;
    `noise` of the latents and `context_noise` of those given beside them, both `(B, T, C, h, w)`. No words are given,
    and no chunks before the last.
    """

    model: Model
    rows: Tensor
    levels: list[Tensor]
    noise: Tensor
    context_noise: Tensor

    @classmethod
    def near(
        cls,
        model: Model,
        latent_BTCHW: Tensor,
        share: float,
        levels: tuple[float, float],
        generator: torch.Generator,
    ) -> LatentGuesses | None:
        """A share of the windows is guessed from the truth under noise of a level in a range, in one step.

        None if there are none, or no diffusion transformer.
        """
        B, T = latent_BTCHW.shape[:2]
        is_guessed = torch.rand(B, generator=generator) < share
        lowest, highest = levels
        level = lowest + (highest - lowest) * torch.rand((B, T), generator=generator)
        noise, context_noise = torch.randn((2, *latent_BTCHW.shape), generator=generator)
        rows = is_guessed.nonzero()[:, 0]
        return cls._of(model, rows, [level, torch.zeros_like(level)], noise, context_noise)

    @classmethod
    def drawn(cls, model: Model, latent_BTCHW: Tensor, generator: torch.Generator) -> LatentGuesses | None:
        """All windows are drawn from noise alone, in as many steps as in play. None without a transformer."""
        sampling, shape = model.config.sampling, latent_BTCHW.shape
        levels = [torch.full(shape[:2], level) for level in schedule(sampling.num_steps, sampling.shift)]
        noise, context_noise = torch.randn((2, *shape), generator=generator)
        return cls._of(model, torch.arange(len(latent_BTCHW)), levels, noise, context_noise)

    @classmethod
    def _of(
        cls, model: Model, rows: Tensor, levels: list[Tensor], noise: Tensor, context_noise: Tensor
    ) -> LatentGuesses | None:
        if model.foundation is None or not len(rows):
            return None
        device = model.device
        on_device = [level.to(device) for level in levels]
        return cls(model, rows.to(device), on_device, noise.to(device), context_noise.to(device))

    @torch.no_grad()
    def of_chunk(
        self, number: int, latent: Tensor, before: Tensor, reference: Reference, operations: Tensor
    ) -> Tensor:
        """A chunk's latents `(B, C, h, w)`, not normalised, those of `rows` in place of the given ones.

        `before` are the latents before it, `operations` those that lead to its end.
        """
        model, rows = self.model, self.rows
        foundation = model.foundation
        assert foundation is not None
        compensates = foundation.config.motion_compensation
        given = model.normalise((reference.latent.float() if compensates else before.float())[rows])[:, None]
        confidence = reference.confidence.float()[rows][:, None] if compensates else None
        levels = [level[rows, number : number + 1] for level in self.levels]
        previous_level = torch.full_like(levels[0], model.config.sampling.context_level)
        noise, context_noise = (each[rows, number][:, None] for each in (self.noise, self.context_noise))
        previous = Previous(
            given, add_noise(given, context_noise, previous_level), previous_level, confidence
        )
        text = Text.none(len(rows), foundation.config.text_width, given.device)
        controls = ControlInputs(
            operations=operations[rows, -FRAMES_PER_CHUNK:][:, None],
            has_operations=torch.ones_like(levels[0], dtype=torch.bool),
            instruction=text,
            instruction_active=torch.zeros_like(levels[0]),
        )
        branch = None if model.instructnet is None else model.instructnet.bind(controls)
        x = add_noise(model.normalise(latent.float()[rows])[:, None], noise, levels[0])
        for level, following in pairwise(levels):
            velocity = foundation(x, level, previous, text, model.video_format, branch).float()
            x = x + expand_levels(following - level) * velocity
        return latent.index_copy(0, rows, model.denormalise(x[:, 0]).to(latent.dtype))
