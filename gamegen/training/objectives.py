"""Training objectives: what a stage minimises. Each owns its model; loops and data are elsewhere.

Shape suffixes as in `gamegen/flow.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from gamegen.flow import add_noise, expand_levels, predict_x0, sample_levels
from gamegen.models.checkpoint import Model
from gamegen.models.instructnet import Controls
from gamegen.models.inverse_dynamics import InverseDynamics
from gamegen.models.msdit import Previous, Text
from gamegen.models.vae import CausalVideoVAE, to_pixels
from gamegen.training.config import FlowLossConfig, StageConfig
from gamegen.training.latents import LatentBatch
from gamegen.training.parallel import SharedTime

Metrics = dict[str, float]


class Objective(ABC):
    """A model, the parameters a stage trains, its loss, and a picture of how well it does."""

    model: Model | InverseDynamics
    shared_time: SharedTime | None = None

    @abstractmethod
    def trained_modules(self) -> dict[str, nn.Module]:
        """The modules to optimise, by their name in the checkpoint."""

    def sharded_modules(self) -> list[nn.Module]:
        """What a run with sharded states splits among its processes: what is trained, and slow copies of it."""
        return list(self.trained_modules().values())

    @abstractmethod
    def loss(self, batch, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        """The scalar to minimise and what to log; `progress` runs from 0 to 1 over the stage."""

    @abstractmethod
    def sheet(self, batch) -> np.ndarray:
        """A contact sheet, uint8 `(H, W, 3)`: truth beside what the model makes of it."""

    def after_step(self) -> None:  # noqa: B027  (a hook that most objectives leave empty)
        """Called after each optimiser step."""

    def state(self) -> dict[str, Tensor]:
        """What else a resumed run needs."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Takes `state` back."""


class FlowObjective(Objective):
    """Rectified flow with a noise level per latent frame; with InstructNet if the model has one.

    The velocity's squared error counts times the level squared, which makes it that of the x_0 it points to: at low
    levels the picture is plain to see, and what is left to learn there says nothing about motion.
    """

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
        inputs, x0, weight = self.as_in_play(inputs, batch, progress, generator)
        # Where nothing comes before, light and layout are decided at the highest levels.
        begins = inputs.previous.level < 0
        shift = torch.where(begins, self.config.start_level_shift, self.config.level_shift)
        levels = sample_levels(x0.shape[:2], shift, generator, self.model.device)
        noise = self._noise_like(x0, generator)
        xt = add_noise(x0, noise, levels)
        velocity = self.velocity(self.foundation, self.instructnet, xt, levels, inputs)
        error = (velocity.float() - (noise - x0)).square()
        x0_error = error * expand_levels(levels).square()
        return (x0_error * weight).mean(), {
            "velocity_error": error.mean().item(),
            "x0_error": x0_error.mean().item(),
        }

    def draw_inputs(self, batch: LatentBatch, generator: torch.Generator) -> FlowInputs:
        """Chooses what this step gives the model: text, previous latents, controls."""
        c, B, device = self.config, len(batch.latents), self.model.device
        chance = lambda p: (torch.rand(B, generator=generator) < p).to(device)  # noqa: E731
        amount = torch.rand(batch.latents.shape[:2], generator=generator).to(device) * c.previous_noise
        noise = self._noise_like(batch.previous, generator)
        levels = amount.clone()
        levels[:, 0] = torch.where(batch.starts | chance(c.text_to_video), -1.0, levels[:, 0])
        words, keys, video = (use.to(device) for use in self._draw_controls(B, generator))
        controls = batch.controls
        said = controls.instruction_active.sum(1) > 0
        # A change that nothing explains would teach worlds to change by themselves.
        changes = said & (controls.instruction_active.sum(1) < controls.instruction_active.shape[1])
        words = words | (changes & (self.instructnet is not None))
        heard = Controls(
            controls.operations,
            controls.has_operations & keys[:, None],
            controls.instruction,
            controls.instruction_active * words[:, None],
            controls.video,
            None if controls.has_video is None else controls.has_video & video,
        )
        # A player's prompt names the scene before the change; who does not hear the instruction needs the new one.
        follows = words & said
        prompt = choose(follows, batch.first_prompt, batch.prompt)
        prompt = prompt.dropped(chance(c.text_drop) | (changes & ~follows))
        previous = Previous(batch.previous, add_noise(batch.previous, noise, amount), levels)
        return FlowInputs(previous, prompt, heard)

    def _draw_controls(self, num_windows: int, generator: torch.Generator) -> Tensor:
        """Which windows hear words, which feel keys, which see a video prompt: bool `(3, B)`."""
        if self.instructnet is None:
            return torch.zeros(3, num_windows, dtype=torch.bool)
        mix = self.config.controls
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

    def velocity(self, foundation, instructnet, xt: Tensor, levels: Tensor, inputs: FlowInputs) -> Tensor:
        """The velocity a (foundation, InstructNet) pair predicts for the drawn inputs."""
        shared = self.shared_time
        if shared is None or not shared.divides(xt.shape[1]):
            return self._velocity(foundation, instructnet, xt, levels, inputs)
        parts = [module for module in (foundation, instructnet) if module is not None]
        with shared.joined(*parts):
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

    def as_in_play(
        self, inputs: FlowInputs, batch: LatentBatch, progress: float, generator: torch.Generator
    ) -> tuple[FlowInputs, Tensor, Tensor]:
        """The inputs, latents and loss weights of a step; later in a run some windows' past is the model's own."""
        weight = change_weight(batch, self.config.still_weight)
        is_image = batch.latents.shape[1] == 1
        if is_image or progress < self.config.own_start or not self.config.own_predictions:
            return inputs, batch.latents, weight
        inputs, latents, is_target = self._with_own_predictions(inputs, batch, generator)
        return inputs, latents, weight * is_target

    @torch.no_grad()
    def _with_own_predictions(
        self, inputs: FlowInputs, batch: LatentBatch, generator: torch.Generator
    ) -> tuple[FlowInputs, Tensor, Tensor]:
        """Some windows as they are in play, where all the past is the model's own (against drift).

        Returns the inputs with every previous latent of those windows replaced by a guess, the latents with the
        guesses in the first places of those windows, and a mask `(B, T, 1, 1, 1)` that is 0 there, because a
        guess is no target. Where the footage stands still the target is the guess before, right or wrong: what
        has been drawn stays, or a world would redraw itself for ever.
        """
        latents = batch.latents
        B, T = latents.shape[:2]
        is_target = torch.ones(B, T, 1, 1, 1, device=latents.device)
        # As many on every worker: passes of a sharded model are taken together.
        num_rows = math.ceil(self.config.own_predictions * B)
        rows = torch.randperm(B, generator=generator)[:num_rows].to(latents.device)
        some = inputs.rows(rows)
        level = 0.6 + 0.4 * torch.rand((len(rows), T), generator=generator).to(latents.device)
        xt = add_noise(latents[rows], self._noise_like(latents[rows], generator), level)
        velocity = self.velocity(self.foundation, self.instructnet, xt, level, some)
        still = is_still(batch)[rows][..., None, None, None]
        drawn = as_drawn(predict_x0(xt, velocity.float(), level), latents[rows], still)
        before, noisy, mixed = inputs.previous.latent.clone(), inputs.previous.noisy.clone(), latents.clone()
        before[rows, 1:] = drawn[:, :-1]
        noisy[rows, 1:] = add_noise(
            drawn[:, :-1],
            self._noise_like(drawn[:, :-1], generator),
            some.previous.level[:, 1:].clamp_min(0),
        )
        num_own = torch.randint(T, (len(rows), 1), generator=generator).to(latents.device)
        own = (torch.arange(T, device=latents.device) < num_own)[:, :, None, None, None]
        mixed[rows] = torch.where(own | still, drawn, latents[rows])
        is_target[rows] = (~own | still).float()
        previous = Previous(before, noisy, inputs.previous.level)
        return FlowInputs(previous, inputs.prompt, inputs.controls), mixed, is_target

    def _noise_like(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(latents.shape, generator=generator).to(self.model.device)

    @torch.inference_mode()
    def sheet(self, batch: LatentBatch) -> np.ndarray:
        """Rows: truth, then the guess of each latent from high noise, last frame of every chunk."""
        batch = batch.to(self.model.device)
        generator = torch.Generator().manual_seed(0)
        level = torch.full(batch.latents.shape[:2], 0.8, device=self.model.device)
        xt = add_noise(batch.latents, self._noise_like(batch.latents, generator), level)
        context = torch.full_like(level, 0.1)
        context[:, 0] = torch.where(batch.starts, -1.0, context[:, 0])
        previous = Previous(batch.previous, batch.previous, context)
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


class FlowInputs:
    """What accompanies the noisy latents: previous latents, prompt, controls."""

    def __init__(self, previous: Previous, prompt: Text, controls: Controls) -> None:
        self.previous, self.prompt, self.controls = previous, prompt, controls

    def rows(self, index: Tensor) -> FlowInputs:
        """Those of some windows of the batch."""
        return FlowInputs(self.previous.rows(index), self.prompt.rows(index), self.controls.rows(index))

    def times(self, take: Callable[[Tensor], Tensor]) -> FlowInputs:
        """With `take` of every tensor that has a time axis."""
        p, c = self.previous, self.controls
        controls = Controls(
            take(c.operations),
            take(c.has_operations),
            c.instruction,
            take(c.instruction_active),
            None if c.video is None else take(c.video),
            c.has_video,
        )
        return FlowInputs(Previous(take(p.latent), take(p.noisy), take(p.level)), self.prompt, controls)


def choose(condition_B: Tensor, yes: Text, no: Text) -> Text:
    """Row by row one of two batches of texts."""
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


def as_drawn(guess: Tensor, truth: Tensor, still: Tensor) -> Tensor:
    """What a player would see: guesses `(B, T, C, h, w)`, each held while `still` `(B, T, 1, 1, 1)` says so.

    The latent before a window is true, so a window that begins still begins with the truth.
    """
    drawn = [torch.where(still[:, 0], truth[:, 0], guess[:, 0])]
    for i in range(1, guess.shape[1]):
        drawn.append(torch.where(still[:, i], drawn[-1], guess[:, i]))
    return torch.stack(drawn, 1)


def is_still(batch: LatentBatch) -> Tensor:
    """Which latents `(B, T)` all but equal the one before them (mean squared change under .05 of the variance)."""
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


def reconstruction_loss(video: Tensor, target: Tensor, gradient_weight: float) -> Tensor:
    """L1 plus `gradient_weight` times the L1 of image gradients, of videos in [-1, 1]."""
    error = video - target
    horizontal = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    vertical = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + gradient_weight * (horizontal + vertical)


def decoding_sheet(vae: CausalVideoVAE, video: Tensor) -> np.ndarray:
    """Rows: video, what the decoder makes of its latents, and what the streaming decoder makes of them."""
    latent = vae.encode(video)
    rows = [video, vae.decode(latent), vae.decode_streaming(latent)]
    frames = [to_pixels(row[:6, -1]).cpu().numpy() for row in rows]
    return np.concatenate([np.concatenate(list(row), 1) for row in frames], 0)


def psnr_db(video: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of videos in [-1, 1]."""
    return (10 * torch.log10(4 / (video.detach() - target).square().mean())).item()


def build_objective(model: Model, config: StageConfig) -> Objective:
    """The objective of a stage."""
    if config.stage == "vae":
        from gamegen.training.autoencoder import VAEObjective

        return VAEObjective(model, config.vae_loss)
    if config.stage == "turbo":
        from gamegen.turbo.distillation import TurboObjective

        return TurboObjective(model, config.flow, config.turbo)
    if config.stage == "sparse":
        from gamegen.turbo.sparse import SparseObjective

        return SparseObjective(model, config.flow, config.sparse)
    if config.stage == "decoder":
        from gamegen.training.decoder import DecoderObjective

        return DecoderObjective(model, config.decoder_loss)
    return FlowObjective(model, config.flow)
