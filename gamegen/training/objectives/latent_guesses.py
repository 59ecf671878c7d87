"""Latents that a model's diffusion transformer guesses, for the decoder to learn from.

Shape suffixes as in `gamegen/flow.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.flow import add_noise, predict_x0
from gamegen.models.instructnet import ControlInputs
from gamegen.models.model import Model
from gamegen.models.network_inputs import Previous, Text
from gamegen.models.streaming_decoder import Reference


@dataclass(frozen=True)
class LatentGuesses:
    """Which of B windows have guessed latents, and what they are guessed from.

    `rows` are their numbers; the truth is given under noise of a `level` `(B, T)`, `noise` of the latents and
    `context_noise` of those given beside them, both `(B, T, C, h, w)`. No words are given, and no chunks before the
    last.
    """

    model: Model
    rows: Tensor
    level: Tensor
    noise: Tensor
    context_noise: Tensor

    @classmethod
    def draw(
        cls,
        model: Model,
        latent_BTCHW: Tensor,
        share: float,
        levels: tuple[float, float],
        generator: torch.Generator,
    ) -> LatentGuesses | None:
        """Guesses of a share of the windows, from noise of a level in a range.

        None if there are none, or no diffusion transformer.
        """
        B, T = latent_BTCHW.shape[:2]
        is_guessed = torch.rand(B, generator=generator) < share
        lowest, highest = levels
        level = lowest + (highest - lowest) * torch.rand((B, T), generator=generator)
        noise, context_noise = torch.randn((2, *latent_BTCHW.shape), generator=generator)
        if model.foundation is None or not is_guessed.any():
            return None
        parts = is_guessed.nonzero()[:, 0], level, noise, context_noise
        return cls(model, *(part.to(model.device) for part in parts))

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
        level = self.level[rows, number : number + 1]
        previous_level = torch.full_like(level, model.config.sampling.context_level)
        noise, context_noise = (each[rows, number][:, None] for each in (self.noise, self.context_noise))
        previous = Previous(
            given, add_noise(given, context_noise, previous_level), previous_level, confidence
        )
        text = Text.none(len(rows), foundation.config.text_width, given.device)
        controls = ControlInputs(
            operations=operations[rows, -FRAMES_PER_CHUNK:][:, None],
            has_operations=torch.ones_like(level, dtype=torch.bool),
            instruction=text,
            instruction_active=torch.zeros_like(level),
        )
        branch = None if model.instructnet is None else model.instructnet.bind(controls)
        x = add_noise(model.normalise(latent.float()[rows])[:, None], noise, level)
        velocity = foundation(x, level, previous, text, model.video_format, branch).float()
        drawn = model.denormalise(predict_x0(x, velocity, level)[:, 0])
        return latent.index_copy(0, rows, drawn.to(latent.dtype))
