"""Rectified flow with a noise level per latent frame, the objective of the stages that train on latents.

Shape suffixes as in `gamegen/flow.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from gamegen.flow import add_noise, expand_levels, predict_x0, sample_levels
from gamegen.models.folding import to_pixels
from gamegen.models.instructnet import ControlInputs
from gamegen.models.model import Model
from gamegen.models.motion_compensation import compensate, no_latent, recent_operations, shown_again
from gamegen.models.network_inputs import Previous
from gamegen.training.latent_windows import LatentBatch
from gamegen.training.objectives.flow_inputs import ControlMix, FlowInputs, choose_text, draw_controls
from gamegen.training.objectives.objective import Metrics, Objective
from gamegen.training.objectives.wear import KINDS, wear


@dataclass(frozen=True, kw_only=True)
class FlowLossConfig:
    """Settings of the rectified-flow objective with diffusion forcing.

    Noise levels are logit-normal with mean `level_shift`, or `start_level_shift` where no latent comes before: light
    and layout are decided at the highest levels there, but with a mean of 2 the low ones are so rare that first
    pictures stay noisy. The latent before each one is given with noise uniform up to `previous_noise`; it is masked
    with probability `text_to_video` (then the window begins a world), the text is dropped with probability
    `text_drop`. The loss is weighted by how much a latent changed.

    With InstructNet, `controls` says which windows are steered by what. Against drift, from
    `scheduled_sampling_start` of the run on, a share `scheduled_sampling` of the windows has its previous latents
    replaced by the model's own predictions. A bucket of one frame teaches a world's first picture, which is drawn from
    the words alone. `transition_windows` of the windows are cut around an instruction taking effect, `still_windows`
    around a moment without keys, and latents that equal the one before them count `still_weight` times: footage is
    mostly movement, and a world that cannot stand still shimmers. `train_foundation` false freezes the foundation
    while InstructNet learns.

    In a share `worn_windows` the motion-compensated latents are blurred (`wear`) or those of frames that were moved for
    longer (`carry_stream`), half of each: the model learns to draw anew what has been moved for long.

    The velocity's squared error counts times the noise level to the power `level_power`: with 2 it is the error of the
    x_0 that the velocity points to, and low levels, where fine detail is decided, hardly count; with 0 they count most,
    although the picture is plain to see there and says nothing about motion.
    """

    level_shift: float = 0.4
    start_level_shift: float = 1.2
    previous_noise: float = 0.35
    text_to_video: float = 0.25
    text_drop: float = 0.25
    controls: ControlMix = field(default_factory=ControlMix)
    scheduled_sampling: float = 0.25
    scheduled_sampling_start: float = 0.5
    transition_windows: float = 0.25
    still_windows: float = 0.15
    still_weight: float = 4.0
    train_foundation: bool = False
    worn_windows: float = 0.5
    level_power: float = 1.0


class FlowObjective(Objective):
    """Rectified flow with a noise level per latent frame; with InstructNet if the model has one."""

    model: Model

    def __init__(self, model: Model, config: FlowLossConfig) -> None:
        assert model.foundation is not None
        self.model, self.config = model, config
        self.foundation, self.instructnet = model.foundation, model.instructnet
        if self.instructnet is not None:
            self.foundation.requires_grad_(config.train_foundation)

    def trained_modules(self) -> dict[str, nn.Module]:
        if self.instructnet is None:
            return {"foundation": self.foundation}
        modules: dict[str, nn.Module] = {"instructnet": self.instructnet}
        return modules | ({"foundation": self.foundation} if self.config.train_foundation else {})

    def loss(self, batch: LatentBatch, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        batch = batch.to(self.model.device)
        inputs = self.draw_inputs(batch, generator)
        inputs, x0, weight = self.apply_scheduled_sampling(inputs, batch, progress, generator)
        # Where nothing comes before, light and layout are decided at the highest levels.
        begins = inputs.previous.level < 0
        shift = torch.where(begins, self.config.start_level_shift, self.config.level_shift)
        levels = sample_levels(x0.shape[:2], shift, generator, self.model.device)
        noise = self._noise_like(x0, generator)
        xt = add_noise(x0, noise, levels)
        velocity = self.velocity(self.foundation, self.instructnet, xt, levels, inputs)
        error = (velocity.float() - (noise - x0)).square()
        level = expand_levels(levels)
        x0_error = error * level.square()
        weight = weight * level.pow(self.config.level_power)
        loss = (error * weight).mean()
        metrics = {"velocity_error": error.mean().item(), "x0_error": x0_error.mean().item()}
        if self.instructnet is not None and not torch.is_grad_enabled():
            # In a validation: how much worse the keys of another window explain what is seen.
            shuffled = self.velocity(self.foundation, self.instructnet, xt, levels, inputs.with_others_keys())
            other = (shuffled.float() - (noise - x0)).square()
            metrics["shuffle_ratio"] = ((other * weight).mean() / loss).item()
        return loss, metrics

    def draw_inputs(self, batch: LatentBatch, generator: torch.Generator) -> FlowInputs:
        """Draws each window's conditioning: noise of the previous latents, dropped text, controls."""
        c, B, device = self.config, len(batch.latents), self.model.device
        chance = lambda p: (torch.rand(B, generator=generator) < p).to(device)  # noqa: E731
        amount = torch.rand(batch.latents.shape[:2], generator=generator).to(device) * c.previous_noise
        given, confidence = self._given(batch, generator)
        noise = self._noise_like(given, generator)
        levels = amount.clone()
        levels[:, 0] = torch.where(batch.starts | chance(c.text_to_video), -1.0, levels[:, 0])
        words = keys = video = torch.zeros(B, dtype=torch.bool, device=device)
        if self.instructnet is not None:
            words, keys, video = (use.to(device) for use in draw_controls(c.controls, B, generator))
        controls = batch.controls
        instructed = controls.instruction_active.sum(1) > 0
        # A change that nothing explains would teach worlds to change by themselves.
        changes = instructed & (controls.instruction_active.sum(1) < controls.instruction_active.shape[1])
        words = words | (changes & (self.instructnet is not None))
        controls = ControlInputs(
            operations=controls.operations,
            has_operations=controls.has_operations & keys[:, None],
            instruction=controls.instruction,
            instruction_active=controls.instruction_active * words[:, None],
            video=controls.video,
            has_video=None if controls.has_video is None else controls.has_video & video,
        )
        # A player's prompt names the scene before the change; without the instruction the new one is needed.
        follows = words & instructed
        prompt = choose_text(follows, batch.first_prompt, batch.prompt)
        prompt = prompt.dropped(chance(c.text_drop) | (changes & ~follows))
        previous = Previous(given, add_noise(given, noise, amount), levels, confidence)
        return FlowInputs(previous, prompt, controls)

    def _given(self, batch: LatentBatch, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Condition latents `(B, T, C, h, w)`, in some windows worn by long moving, and their confidence."""
        given, confidence = batch.given
        if batch.motion is None or not self.config.worn_windows:
            return given, confidence
        B = len(given)
        chances, amounts = torch.rand((2, B), generator=generator)
        kind = KINDS[int(torch.randint(len(KINDS), (), generator=generator))]
        # Where the picture stands still nothing wears.
        moves = ~is_still(batch)
        half = self.config.worn_windows / 2
        is_carried = (chances < half).to(given.device)
        carried = (is_carried[:, None] & moves)[..., None, None, None]
        given = torch.where(carried, batch.motion.carried, given)
        rows = ((half <= chances) & (chances < 2 * half)).nonzero()[:, 0]
        if len(rows):
            amount = (amounts[rows, None].to(given.device) * moves[rows]).flatten()
            worn = wear(self.model, given[rows].flatten(0, 1), amount, kind)
            given = given.index_copy(0, rows.to(given.device), worn.view_as(given[rows]))
        return given, confidence

    def velocity(self, foundation, instructnet, xt: Tensor, levels: Tensor, inputs: FlowInputs) -> Tensor:
        """Velocity that a (foundation, InstructNet) pair predicts, float `(B, T, C, h, w)` as `xt`."""
        shared = self.shared_time
        if shared is None or not shared.divides(xt.shape[1]):
            return self._velocity(foundation, instructnet, xt, levels, inputs)
        modules = [module for module in (foundation, instructnet) if module is not None]
        with shared.joined(*modules):
            stretch = self._velocity(
                foundation,
                instructnet,
                shared.stretch(xt),
                shared.stretch(levels),
                inputs.times(shared.stretch),
            )
        return shared.together(stretch)

    def _velocity(self, foundation, instructnet, xt: Tensor, levels: Tensor, inputs: FlowInputs) -> Tensor:
        return foundation(
            xt,
            levels,
            inputs.previous,
            inputs.prompt,
            self.model.video_format,
            instructnet.bind(inputs.controls) if instructnet is not None else None,
        )

    def apply_scheduled_sampling(
        self, inputs: FlowInputs, batch: LatentBatch, progress: float, generator: torch.Generator
    ) -> tuple[FlowInputs, Tensor, Tensor]:
        """The inputs, latents and loss weights of a step, with some windows' past predicted by the model itself.

        Scheduled sampling (Bengio et al. 2015), from `scheduled_sampling_start` of the run on.
        """
        weight = change_weight(batch, self.config.still_weight)
        is_image = batch.latents.shape[1] == 1
        if is_image or progress < self.config.scheduled_sampling_start or not self.config.scheduled_sampling:
            return inputs, batch.latents, weight
        inputs, latents, is_target = self._with_predicted_past(inputs, batch, generator)
        return inputs, latents, weight * is_target

    @torch.no_grad()
    def _with_predicted_past(
        self, inputs: FlowInputs, batch: LatentBatch, generator: torch.Generator
    ) -> tuple[FlowInputs, Tensor, Tensor]:
        """Some windows with a past that is the model's own, as in play (against drift).

        Returns the inputs with every previous latent of those windows replaced by a guess, the latents with the
        guesses in the first places of those windows, and a mask `(B, T, 1, 1, 1)` that is 0 there, because a
        guess is no target. Where the footage stands still the target is the guess before, right or wrong: what
        has been drawn stays, or a world would redraw itself for ever.
        """
        latents = batch.latents
        B, T = latents.shape[:2]
        is_target = torch.ones(B, T, 1, 1, 1, device=latents.device)
        # As many on every worker: passes of a sharded model are taken together.
        num_rows = math.ceil(self.config.scheduled_sampling * B)
        rows = torch.randperm(B, generator=generator)[:num_rows].to(latents.device)
        some = inputs.rows(rows)
        level = 0.6 + 0.4 * torch.rand((len(rows), T), generator=generator).to(latents.device)
        xt = add_noise(latents[rows], self._noise_like(latents[rows], generator), level)
        velocity = self.velocity(self.foundation, self.instructnet, xt, level, some)
        still = is_still(batch)[rows][..., None, None, None]
        predicted = hold_still(predict_x0(xt, velocity.float(), level), latents[rows], still)
        follows, trust = self._follows(batch, rows, predicted)
        previous = inputs.previous.map(Tensor.clone)
        previous.latent[rows, 1:] = follows
        previous.noisy[rows, 1:] = add_noise(
            follows, self._noise_like(follows, generator), some.previous.level[:, 1:].clamp_min(0)
        )
        if previous.confidence is not None:
            previous.confidence[rows, 1:] = trust
        mixed = latents.clone()
        num_own = torch.randint(T, (len(rows), 1), generator=generator).to(latents.device)
        own = (torch.arange(T, device=latents.device) < num_own)[:, :, None, None, None]
        mixed[rows] = torch.where(own | still, predicted, latents[rows])
        is_target[rows] = (~own | still).float()
        return FlowInputs(previous, inputs.prompt, inputs.controls), mixed, is_target

    def _follows(self, batch: LatentBatch, rows: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor | float]:
        """What is given for every latent but the first after the guesses `(B, T, C, h, w)`: latents and confidence."""
        if batch.motion is None:
            return predicted[:, :-1], 0.0
        T = predicted.shape[1] - 1
        # Where a window begins its clip, no latent comes before its first one.
        none = no_latent(self.model).expand_as(batch.previous[rows, 0])
        first = torch.where(batch.starts[rows][:, None, None, None], none, batch.previous[rows, 0])
        before = torch.cat([first[:, None], predicted[:, :-2]], 1)
        operations = recent_operations(batch.controls.operations[rows], batch.motion.past_operations[rows])
        shown = shown_again(self.model, predicted[:, :-1].flatten(0, 1), before.flatten(0, 1))
        found = compensate(self.model, shown, operations[:, 1:].flatten(0, 1))
        latent = self.model.normalise(found.latent)
        return latent.unflatten(0, (-1, T)), found.confidence.unflatten(0, (-1, T))

    def _noise_like(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(latents.shape, generator=generator).to(self.model.device)

    @torch.inference_mode()
    def sheet(self, batch: LatentBatch) -> np.ndarray:
        """Rows of the truth and of each latent's guess from high noise, the last frame of every chunk."""
        batch = batch.to(self.model.device)
        generator = torch.Generator().manual_seed(0)
        level = torch.full(batch.latents.shape[:2], 0.8, device=self.model.device)
        xt = add_noise(batch.latents, self._noise_like(batch.latents, generator), level)
        context = torch.full_like(level, 0.1)
        context[:, 0] = torch.where(batch.starts, -1.0, context[:, 0])
        given, confidence = batch.given
        previous = Previous(given, given, context, confidence)
        inputs = FlowInputs(previous, batch.first_prompt, batch.controls)
        guess = predict_x0(
            xt, self._velocity(self.foundation, self.instructnet, xt, level, inputs).float(), level
        )
        rows = []
        for i in range(min(4, len(guess))):
            for latents in (batch.latents[i], guess[i]):
                video = self.model.vae.decode_streaming(self.model.denormalise(latents)[None])[0]
                rows.append(np.concatenate(list(to_pixels(video[3::4]).cpu().numpy()), 1))
        return np.concatenate(rows, 0)


def hold_still(guess: Tensor, truth: Tensor, still: Tensor) -> Tensor:
    """Guesses `(B, T, C, h, w)` as a player would see them: each held while `still` `(B, T, 1, 1, 1)` is true.

    The latent before a window is true, so a window that begins still begins with the truth.
    """
    held = [torch.where(still[:, 0], truth[:, 0], guess[:, 0])]
    for i in range(1, guess.shape[1]):
        held.append(torch.where(still[:, i], held[-1], guess[:, i]))
    return torch.stack(held, 1)


def is_still(batch: LatentBatch) -> Tensor:
    """Bool `(B, T)`: latents that all but equal the one before (mean squared change under .05 of the variance)."""
    still = (batch.latents - batch.previous).square().mean((2, 3, 4)) < 0.05
    still[:, 0] &= ~batch.starts
    return still


def change_weight(batch: LatentBatch, still_weight: float) -> Tensor:
    """Loss weight `(B, T, 1, h, w)`: half constant, half in proportion to how much a place has changed.

    Latents that stand still count `still_weight` times.
    """
    change = (batch.latents - batch.previous).abs().mean(2, keepdim=True)
    # Where nothing came before, everything is new.
    change[:, 0] = torch.where(batch.starts[:, None, None, None], change.mean(), change[:, 0])
    weight = 0.5 + change / (change.mean() + 1e-6)
    weight = torch.where(is_still(batch)[..., None, None, None], still_weight * weight, weight)
    return weight / weight.mean()
