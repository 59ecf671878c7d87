"""The `adversarial` stage: a model learns on its own rollouts to draw in few steps what passes for real.

In few steps a flow draws means: plains where there could be trees. A critic that compares rollouts with recordings,
chunk by chunk, makes the last step a sample, and since rollouts go on from where earlier ones ended, also teaches the
model to stay among what is real ("Autoregressive Adversarial Post-Training": Lin et al. 2025, section 3). Averaged
over areas the truth is kept beside it: what was asked for in words, and what the keys lead to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import OPERATION_SIZE
from gamegen.models.folding import to_pixels
from gamegen.models.model import Model, ModelConfig
from gamegen.models.network_inputs import Text
from gamegen.training.discriminator import held_scores
from gamegen.training.flops import FORWARD, FORWARD_AND_BACKWARD, BatchCost, latent_batch_cost, window_flops
from gamegen.training.latent_discriminator import (
    LatentDiscriminator,
    LatentDiscriminatorConfig,
    pairing_loss,
    roughness,
)
from gamegen.training.latent_windows import LatentBatch
from gamegen.training.objectives.flow_inputs import choose_text
from gamegen.training.objectives.flow_matching import FlowLossConfig, FlowObjective, is_still
from gamegen.training.objectives.objective import Metrics
from gamegen.training.objectives.replay_buffer import ReplayBuffer
from gamegen.training.objectives.rollout import Rollout, roll_out
from gamegen.training.rollout_windows import RolloutBatch, RolloutWindows
from gamegen.training.stages.world_model import LatentStage


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """Weights of the losses on a rollout, and how the model is sampled in it and from then on.

    A share `replayed_windows` of the rollouts begins where one of the last `replay_size` ended, until a world is
    `max_chunks` old; of those only the critic is learned from, because nobody knows what should follow.

    To the critic's loss come squared errors, each times its weight: of averages over `area` x `area` latents from the
    truth's (`area_weight`), of the first `near_chunks` chunks, which follow from what is recorded (`near_weight`), and
    of what should stand still from what it was drawn from (`still_weight`). In the critic's loss on the model, what
    comes into view counts `1 + new_weight` times as much as what is merely moved. The critic's `roughness` under noise
    of `noise_std` counts `roughness_weight` times.
    """

    num_steps: int = 2
    first_steps: int = 12
    replayed_windows: float = 0.6
    replay_size: int = 96
    max_chunks: int = 72
    adversarial_weight: float = 1.0
    area: int = 4
    area_weight: float = 1.0
    near_chunks: int = 2
    near_weight: float = 0.3
    still_weight: float = 2.0
    new_weight: float = 3.0
    noise_std: float = 0.1
    roughness_weight: float = 0.3
    discriminator: LatentDiscriminatorConfig = field(default_factory=LatentDiscriminatorConfig)


@dataclass(frozen=True, kw_only=True)
class AdversarialStage(LatentStage):
    """Trains a model's foundation and InstructNet against a critic of their rollouts."""

    stage: Literal["adversarial"] = "adversarial"
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)

    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        config, weights = self.load_init(init)
        sampling = replace(
            config.sampling,
            solver="euler",
            num_steps=self.adversarial.num_steps,
            first_steps=self.adversarial.first_steps,
            guidance_scale=1.0,
        )
        return replace(config, sampling=sampling), weights

    def windows(self, model: ModelConfig) -> RolloutWindows:
        return RolloutWindows(self.latent_windows(model))

    def objective(self, model: Model) -> AdversarialObjective:
        return AdversarialObjective(model, self.flow, self.adversarial)

    def batch_cost(self, model: ModelConfig, batch: LatentBatch) -> BatchCost:
        # Of every chunk's steps one has a gradient; one pass more writes its keys and values.
        passes = FORWARD_AND_BACKWARD + self.adversarial.num_steps * FORWARD
        return latent_batch_cost(batch, float(passes * window_flops(model, batch).total))


class AdversarialObjective(FlowObjective):
    """Foundation and InstructNet against a critic; windows of one latent, first pictures, are learned as a flow."""

    def __init__(self, model: Model, flow: FlowLossConfig, config: AdversarialConfig) -> None:
        super().__init__(model, replace(flow, train_foundation=True))
        assert self.instructnet is not None
        self.adversarial = config
        model.vae.requires_grad_(False)
        size = FRAMES_PER_CHUNK * OPERATION_SIZE + 2 * self.foundation.config.text_width
        channels = model.config.vae.latent_channels
        self.discriminator = LatentDiscriminator(config.discriminator, channels, size).to(model.device)
        self.replay = ReplayBuffer(model, config.replay_size, config.max_chunks)

    def trained_modules(self) -> dict[str, nn.Module]:
        return super().trained_modules() | {"discriminator": self.discriminator}

    def loss(self, batch: LatentBatch, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        if batch.latents.shape[1] == 1:
            return super().loss(batch, generator, progress)
        assert isinstance(batch, RolloutBatch)
        batch = batch.to(self.model.device)
        instructed = batch.controls.instruction_active.sum(1) > 0
        # A player's prompt names the scene before the change.
        prompt = choose_text(instructed, batch.first_prompt, batch.prompt)
        c, recorded, learns = self.adversarial, (batch, prompt), torch.is_grad_enabled()
        share = c.replayed_windows if learns else 0.0
        batch, prompt, ages = self.replay.go_on(batch, prompt, share, generator)
        played = roll_out(self.model, batch, prompt, generator)
        if learns:
            self.replay.add(batch, prompt, ages, played.shown, played.drawn[:, -1].detach())
        loss, metrics = self._truth_loss(played, recorded[0], ages == 0)
        real = _pairs(recorded[0].latents), self._condition(*recorded)
        # Both of a pair are drawn, and have gradients, but for the first one.
        drawn = _pairs(torch.cat([batch.latents[:, :1], played.drawn], 1)), self._condition(batch, prompt)
        weight = 1 + c.new_weight * played.unseen.flatten(0, 1)
        scores, judging, more = self._judge(real, drawn, weight, generator)
        metrics |= more | {"age": ages.float().mean().item()}
        return loss + c.adversarial_weight * scores + judging, metrics

    def state(self) -> dict[str, Tensor]:
        return self.replay.tensors()

    def restore(self, state: dict[str, Tensor]) -> None:
        self.replay.restore(state)

    def _truth_loss(
        self, played: Rollout, batch: RolloutBatch, is_recorded: Tensor
    ) -> tuple[Tensor, Metrics]:
        c, truth = self.adversarial, batch.latents[:, 1:]
        error = (played.drawn - truth) * is_recorded[:, None, None, None, None]
        share = is_recorded.float().mean().clamp_min(1e-6)
        areas = F.avg_pool2d(error.flatten(0, 1), c.area, ceil_mode=True).square().mean() / share
        near = error[:, : c.near_chunks].square().mean() / share
        still = is_still(batch)[:, 1:, None, None, None]
        moved = ((played.drawn - played.given).square() * still).mean()
        loss = c.area_weight * areas + c.near_weight * near + c.still_weight * moved
        return loss, {"area_error": areas.item(), "near_error": near.item(), "still_error": moved.item()}

    def _judge(
        self,
        recorded: tuple[Tensor, Tensor],
        drawn: tuple[Tensor, Tensor],
        weight: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Metrics]:
        """The critic's loss on the model, the critic's own, and figures; of pairs of latents and their conditions.

        Places count by their `weight` `(N, 1, h, w)` to the first.
        """
        with torch.no_grad():
            held = self.discriminator(*recorded)
        fooling = pairing_loss(held_scores(self.discriminator, *drawn), held, weight)
        if not torch.is_grad_enabled():
            return fooling, torch.zeros_like(fooling), {"fooling": fooling.item()}
        both, condition = (torch.cat([a, b.detach()]) for a, b in zip(recorded, drawn, strict=True))
        noise = torch.randn(both.shape, generator=generator).to(both.device)
        c = self.adversarial
        scores = self.discriminator(both, condition)
        disturbed = self.discriminator(both + c.noise_std * noise, condition)
        reals, fakes = zip(*(score.chunk(2) for score in scores), strict=True)
        judging = pairing_loss(list(reals), list(fakes))
        rough = roughness(scores, disturbed, c.noise_std)
        figures = {"fooling": fooling.item(), "judging": judging.item(), "roughness": rough.item()}
        return fooling, judging + c.roughness_weight * rough, figures

    @staticmethod
    def _condition(batch: RolloutBatch, prompt: Text) -> Tensor:
        """The discriminator's condition: operations, prompt and instruction of every chunk but the first.

        `(B (T - 1), condition_size)`.
        """
        c = batch.controls
        operations = c.operations[:, 1:].flatten(2)
        words = prompt.pooled[:, None].expand(-1, operations.shape[1], -1)
        said = c.instruction.pooled[:, None] * c.instruction_active[:, 1:, None]
        return torch.cat([operations, 3 * words, 3 * said], 2).flatten(0, 1)

    @torch.inference_mode()
    def sheet(self, batch: LatentBatch) -> np.ndarray:
        """Rows of the truth and of a rollout, the last frame of every chunk as latents alone decode to."""
        if batch.latents.shape[1] == 1:
            return super().sheet(batch)
        assert isinstance(batch, RolloutBatch)
        batch = batch.to(self.model.device)
        played = roll_out(self.model, batch, batch.first_prompt, torch.Generator().manual_seed(0))
        rows = []
        for i in range(min(4, len(played.drawn))):
            for latents in (batch.latents[i, 1:], played.drawn[i]):
                video = self.model.vae.decode_streaming(self.model.denormalise(latents)[None])[0]
                rows.append(np.concatenate(list(to_pixels(video[3::4]).cpu().numpy()), 1))
        return np.concatenate(rows, 0)


def _pairs(latents_BTCHW: Tensor) -> Tensor:
    """Each latent but the first beside the one before it, `(B (T - 1), 2C, H, W)`."""
    return torch.cat([latents_BTCHW[:, 1:], latents_BTCHW[:, :-1]], 2).flatten(0, 1)
