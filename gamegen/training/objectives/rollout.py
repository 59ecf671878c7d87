"""Rollout: a model plays a window on from its first chunk as the engine does, with gradients into what it draws.

Every chunk is drawn from noise in the sampling's steps, given the frames that were shown, moved; it is decoded, and
what was shown is moved again. Temporal attention reads caches. So a model learns on what it will be given in play
("Self Forcing": Huang et al. 2025, section 3.2). Gradients flow through the last step of each chunk alone, and not
from one chunk to another: memory grows with the chunks' number, not with its square.

Shape suffixes as in `gamegen/flow.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gamegen.constants import SPATIAL_FACTOR
from gamegen.flow import add_noise, predict_x0, schedule
from gamegen.models.folding import from_pixels, to_pixels, unfold_frames
from gamegen.models.instructnet import ControlInputs, temporal_attentions
from gamegen.models.kv_cache import CachedKV, CacheView, KVCaches, RingCache
from gamegen.models.layered_warp import split_layers
from gamegen.models.model import Model
from gamegen.models.motion import FINE
from gamegen.models.motion_compensation import as_reference, predict_motion, recent_operations
from gamegen.models.msdit import PATCH
from gamegen.models.network_inputs import Previous, Text
from gamegen.training.rollout_windows import RolloutBatch


class Rollout(NamedTuple):
    """The chunks of windows after their first, as a model drew them: latents `drawn` `(B, T - 1, C, h, w)` with
    gradients, the motion-compensated latents `given` that it drew each of them from, the share of each place that those
    do not show, `unseen` `(B, T - 1, 1, h, w)`, and the last two frames that were `shown`, `(B, 2, 3, H, W)`."""

    drawn: Tensor
    given: Tensor
    unseen: Tensor
    shown: Tensor


def roll_out(model: Model, batch: RolloutBatch, prompt: Text, generator: torch.Generator) -> Rollout:
    """Plays the windows of a batch on under their operations and instructions.

    Raises ValueError for a model that is not motion-compensated.
    """
    if model.foundation is None or not model.foundation.config.motion_compensation:
        raise ValueError(
            "this model is given no motion-compensated latents: train instructnet with a motion network"
        )
    player = _Player(model, batch, prompt, generator)
    player.begin()
    chunks = [player.draw(number) for number in range(1, batch.latents.shape[1])]
    drawn, given, unseen = (torch.stack(part, 1) for part in zip(*chunks, strict=True))
    return Rollout(drawn, given, unseen, player.shown)


class _UnsharedCache(RingCache):
    """Ring cache whose readers keep what they read: a gradient needs it after the next frame is committed."""

    def select(self, slots: slice | Tensor, view: CacheView) -> None:
        self._past = CachedKV(self.keys[slots].clone(), self.values[slots].clone(), view)


class _Player:
    """State of a batch of windows as they are played: caches, the last latents, and the last two frames shown."""

    def __init__(self, model: Model, batch: RolloutBatch, prompt: Text, generator: torch.Generator) -> None:
        assert model.foundation is not None and model.instructnet is not None and batch.motion is not None
        self.model, self.batch, self.prompt, self.generator = model, batch, prompt, generator
        self.foundation, self.instructnet = model.foundation, model.instructnet
        self.sampling = model.config.sampling
        self.operations = recent_operations(batch.controls.operations, batch.motion.past_operations)
        self.shown, self.last = batch.shown, batch.latents[:, 0]
        num_rows, _, _, height, width = batch.latents.shape
        num_tokens = height * width // PATCH**2
        rings = [
            attention.new_cache(num_rows, num_tokens, torch.float32, _UnsharedCache)
            for attention in temporal_attentions(self.foundation, self.instructnet)
        ]
        self.caches = KVCaches(rings)

    @torch.no_grad()
    def begin(self) -> None:
        """Commits the first chunk, which is recorded."""
        motion = self.batch.motion
        assert motion is not None
        level = torch.where(self.batch.starts, -1.0, self.sampling.context_level)[:, None]
        self._commit(0, self.last, self._previous(motion.compensated[:, 0], motion.confidence[:, 0], level))

    def draw(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draws and shows a chunk: its latents, those that they were drawn from, and what these do not show."""
        model = self.model
        with torch.no_grad():
            motion = predict_motion(model, self.shown, self.operations[:, number])
            layers = split_layers(motion)
            reference = as_reference(model, layers.move(self.shown[:, 1]), motion, layers)
            unseen = F.avg_pool2d(layers.unseen.mean(1, keepdim=True), SPATIAL_FACTOR // FINE)
            given = model.normalise(reference.latent.float())
            level = torch.full_like(given[:, :1, 0, 0], self.sampling.context_level)
            previous = self._previous(given, reference.confidence.float(), level)
            self.caches.select(range(len(given)))
        levels = schedule(self.sampling.num_steps, self.sampling.shift)
        x = self._noise(given)[:, None]
        for current, following in pairwise(levels):
            at = torch.full_like(level, current)
            with torch.set_grad_enabled(torch.is_grad_enabled() and following == 0):
                velocity = self._velocity(number, x, at, previous)
                if self.sampling.solver == "euler":
                    x = x + (following - current) * velocity
                else:
                    x0 = predict_x0(x, velocity, at)
                    x = add_noise(x0, self._noise(given)[:, None], torch.full_like(level, following))
        drawn = x[:, 0]
        with torch.no_grad():
            now, before = (model.denormalise(latent) for latent in (drawn.detach(), self.last))
            frames = unfold_frames(model.vae.streaming(now, before, reference), 1).float()
            self.shown = from_pixels(to_pixels(frames[:, -2:]))
            self.last = drawn.detach()
            self._commit(number, self.last, previous)
        return drawn, given, unseen

    def _commit(self, number: int, latent: Tensor, previous: Previous) -> None:
        self.caches.select(range(len(latent)))
        level = torch.full_like(latent[:, :1, 0, 0], self.sampling.history_level)
        self._velocity(
            number, add_noise(latent[:, None], self._noise(latent)[:, None], level), level, previous
        )
        self.caches.commit()

    def _previous(self, given: Tensor, confidence: Tensor, level: Tensor) -> Previous:
        noisy = add_noise(given[:, None], self._noise(given)[:, None], level.clamp_min(0))
        return Previous(given[:, None], noisy, level, confidence[:, None])

    def _velocity(self, number: int, x: Tensor, level: Tensor, previous: Previous) -> Tensor:
        c, chunk = self.batch.controls, slice(number, number + 1)
        controls = ControlInputs(
            operations=c.operations[:, chunk],
            has_operations=torch.ones_like(c.has_operations[:, chunk]),
            instruction=c.instruction,
            instruction_active=c.instruction_active[:, chunk],
        )
        branch = self.instructnet.bind(controls)
        return self.foundation(
            x, level, previous, self.prompt, self.model.video_format, branch, self.caches.rings
        ).float()

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like.device)
