"""The `turbo` stage: causal consistency distillation of the guided teacher into a few-step student.

Levels t > t' are neighbours on the sampling schedule. One guided Euler step of the frozen teacher goes from
x_t to x_t'; the student's guess of x_0 from x_t is pulled to its own slow copy's guess from x_t'
(Song et al. 2023, "Consistency Models", algorithm 2, with classifier-free guidance inside the step) under the
pseudo-Huber metric of Song and Dhariwal 2023 ("Improved Techniques for Training Consistency Models", section 3.3),
which does not let the unpredictable places outvote the still ones. Guidance ends up in the student, so serving
needs one pass a step.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from gamegen.flow import add_noise, expand_levels, predict_x0, schedule
from gamegen.models.model import Model, ModelConfig
from gamegen.training.flops import FORWARD, FORWARD_AND_BACKWARD, BatchCost, latent_batch_cost, window_flops
from gamegen.training.latent_windows import LatentBatch
from gamegen.training.objectives.flow_inputs import FlowInputs
from gamegen.training.objectives.flow_matching import FlowLossConfig, FlowObjective, is_still
from gamegen.training.objectives.objective import Metrics
from gamegen.training.stages.world_model import LatentStage


@dataclass(frozen=True, kw_only=True)
class TurboConfig:
    """Settings of discrete consistency distillation: `num_levels` on the schedule of `shift`, guidance, target EMA.

    The run begins with `first_levels` and doubles them at even intervals: what the teacher knows at low noise has to
    travel to the highest level by level, which takes long where they are many.
    `huber_width` is where the pseudo-Huber metric turns linear, in standard deviations of a latent.
    `num_steps` is what the distilled model is then sampled with.
    """

    num_levels: int = 24
    first_levels: int = 3
    shift: float = 3.0
    guidance_scale: float = 2.0
    huber_width: float = 0.1
    target_ema: float = 0.95
    num_steps: int = 2
    first_steps: int = 6

    def __post_init__(self) -> None:
        if not 1 <= self.first_levels <= self.num_levels:
            raise ValueError(
                f"first_levels = {self.first_levels}: must be between 1 and num_levels = {self.num_levels}"
            )


@dataclass(frozen=True, kw_only=True)
class TurboStage(LatentStage):
    """Distils a model's foundation and InstructNet into a student that is sampled in a few steps."""

    stage: Literal["turbo"] = "turbo"
    turbo: TurboConfig = field(default_factory=TurboConfig)

    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        config, weights = self.load_init(init)
        sampling = replace(
            config.sampling,
            solver="consistency",
            num_steps=self.turbo.num_steps,
            first_steps=self.turbo.first_steps,
            shift=self.turbo.shift,
            guidance_scale=1.0,
        )
        return replace(config, sampling=sampling), weights

    def objective(self, model: Model) -> TurboObjective:
        return TurboObjective(model, self.flow, self.turbo)

    def batch_cost(self, model: ModelConfig, batch: LatentBatch) -> BatchCost:
        # The student learns; the guided teacher takes two passes and the student's slow copy one.
        passes = FORWARD_AND_BACKWARD + 3 * FORWARD
        return latent_batch_cost(batch, float(passes * window_flops(model, batch).total))


class TurboObjective(FlowObjective):
    """Distils the model's foundation and InstructNet into few-step copies of themselves."""

    def __init__(self, model: Model, flow: FlowLossConfig, config: TurboConfig) -> None:
        super().__init__(model, flow)
        assert self.instructnet is not None
        self.turbo = config
        self.teacher = nn.ModuleList([copy.deepcopy(self.foundation), copy.deepcopy(self.instructnet)])
        self.target = copy.deepcopy(self.teacher)
        self.teacher.requires_grad_(False)
        self.target.requires_grad_(False)
        self.foundation.requires_grad_(True)

    def trained_modules(self) -> dict[str, nn.Module]:
        assert self.instructnet is not None
        return {"instructnet": self.instructnet, "foundation": self.foundation}

    def sharded_modules(self) -> list[nn.Module]:
        return [*super().sharded_modules(), *self.teacher, *self.target]

    def loss(self, batch: LatentBatch, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        batch = batch.to(self.model.device)
        inputs = self.draw_inputs(batch, generator)
        inputs, x0, weight = self.apply_scheduled_sampling(inputs, batch, progress, generator)
        count = num_levels(self.turbo, progress)
        levels = torch.tensor(schedule(count, self.turbo.shift))
        index = torch.randint(count, x0.shape[:2], generator=generator)
        level, following = levels[index].to(x0.device), levels[index + 1].to(x0.device)
        xt = add_noise(x0, self._noise_like(x0, generator), level)
        with torch.no_grad():
            step = self._guided_velocity(xt, level, inputs)
            x_following = xt + expand_levels(following - level) * step
            goal = predict_x0(
                x_following,
                self.velocity(self.target[0], self.target[1], x_following, following, inputs).float(),
                following,
            )
            # What stands still is known: guidance would sharpen it again with every chunk.
            goal = torch.where(is_still(batch)[..., None, None, None], x0, goal)
        guess = predict_x0(
            xt, self.velocity(self.foundation, self.instructnet, xt, level, inputs).float(), level
        )
        error = pseudo_huber(guess - goal, self.turbo.huber_width)
        return (error * weight).mean(), {
            "consistency_error": error.mean().item(),
            "x0_error": (guess.detach() - x0).square().mean().item(),
        }

    def _guided_velocity(self, xt: Tensor, level: Tensor, inputs: FlowInputs) -> Tensor:
        everything = torch.ones(len(xt), dtype=torch.bool, device=xt.device)
        without = FlowInputs(
            inputs.previous,
            inputs.prompt.dropped(everything),
            inputs.controls.dropped(),
        )
        conditional = self.velocity(self.teacher[0], self.teacher[1], xt, level, inputs).float()
        unconditional = self.velocity(self.teacher[0], self.teacher[1], xt, level, without).float()
        return unconditional + self.turbo.guidance_scale * (conditional - unconditional)

    @torch.no_grad()
    def after_step(self) -> None:
        students = [*self.foundation.parameters(), *self.instructnet.parameters()]  # type: ignore[union-attr]
        for slow, fast in zip(self.target.parameters(), students, strict=True):
            slow.lerp_(fast, 1 - self.turbo.target_ema)

    def state(self) -> dict[str, Tensor]:
        return self.target.state_dict()

    def restore(self, state: dict[str, Tensor]) -> None:
        self.target.load_state_dict(state)


def num_levels(config: TurboConfig, progress: float) -> int:
    """Levels at a point of the run: doubled at even intervals (Song and Dhariwal 2023, section 3.4)."""
    doublings = math.ceil(math.log2(config.num_levels / config.first_levels))
    done = min(doublings, int(progress * (doublings + 1)))
    return min(config.num_levels, config.first_levels * 2**done)


def pseudo_huber(error_BTCHW: Tensor, width: float) -> Tensor:
    """Distance per place, `(B, T, 1, h, w)`: quadratic below `width` (root mean square over channels), then linear."""
    return (error_BTCHW.square().mean(2, keepdim=True) + width**2).sqrt() - width
