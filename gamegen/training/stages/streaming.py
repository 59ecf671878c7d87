"""The `streaming` stage: trains the streaming decoder with its reference, the frame shown last, moved.

In play, the frame shown last is the decoder's own. Windows are therefore decoded chunk after chunk, each with the
frames before it as the decoder drew them (as self-forcing does for a whole model: Huang et al. 2025, section 3.2);
the gradient stays within a chunk. What is decoded in play is drawn by the diffusion model, and errs as that does: so do
the latents of a share of the windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gamegen.constants import TEMPORAL_FACTOR
from gamegen.models.folding import from_pixels, to_pixels, unfold_frames
from gamegen.models.model import Model, ModelConfig
from gamegen.models.motion_compensation import refer
from gamegen.models.streaming_decoder import consistent_weights
from gamegen.training.discriminator import PatchDiscriminator, hinge_loss
from gamegen.training.flops import (
    FORWARD,
    FORWARD_AND_BACKWARD,
    FORWARD_AND_INPUT_GRADIENT,
    BatchCost,
    autoencoder_flops,
    discriminator_flops,
    pixel_batch_cost,
)
from gamegen.training.objectives.latent_guesses import LatentGuesses
from gamegen.training.objectives.objective import Metrics, Objective
from gamegen.training.objectives.reconstruction import psnr_db
from gamegen.training.played_windows import PlayedBatch, PlayedWindows
from gamegen.training.stages.decoder import (
    DecoderLossConfig,
    change,
    critic_loss,
    detail,
    hold_windows,
    picture_loss,
)
from gamegen.training.stages.motion import MOVING
from gamegen.training.stages.world_model import WorldModelStage

ENCODER, DECODER = "vae.encoder.patch", "vae.streaming"
STEM_IN, FRAME_OUT = "vae.streaming.stem.0.weight", "vae.streaming.frame.8"
"""Names of the weights: of the layers that `consistent_weights` is about, of those that read the latents, and (without
`.weight`, `.bias`) of those that write the pixels."""


@dataclass(frozen=True, kw_only=True)
class StreamingLossConfig(DecoderLossConfig):
    """`DecoderLossConfig` for the streaming decoder, and what its reference has to bear.

    Of the latents' noise a share of up to `smooth_noise` is smooth over four places: what is drawn errs in areas.
    `lost_references` of the chunks are decoded without a reference, as first frames are. In a share `guessed_windows`
    the latents are guesses of the model's diffusion transformer, if it has one, from noise of a level in
    `guess_levels`, made under the true keys from the frames that the decoder showed before. From higher levels guesses
    are means, for which the decoder learns to trust the moved frame alone.

    Of each window the last `trained_chunks` are learned from; those before are decoded without a gradient, so that the
    decoder learns to go on from what it has been showing for long: small errors that it would amplify in each chunk
    are large by then. In a share `carried_steps` of the steps they are not decoded at all, but the first one's last
    frame is moved from chunk to chunk: what is walked towards grows out of few pixels and leaves streaks, for which the
    decoder learns to show what is drawn.
    """

    latent_noise: float = 0.6
    smooth_noise: float = 0.7
    held_windows: float = 0.2
    lost_references: float = 0.15
    guessed_windows: float = 0.5
    guess_levels: tuple[float, float] = (0.05, 0.25)
    trained_chunks: int = 3
    carried_steps: float = 0.4


@dataclass(frozen=True, kw_only=True)
class StreamingStage(WorldModelStage):
    """Trains the streaming decoder of a model with a motion network, and nothing else of it.

    One without a deblocking filter is given one of `deblocking_channels`; 0 gives none.
    """

    stage: Literal["streaming"] = "streaming"
    deblocking_channels: int = 24
    shards: ClassVar[Literal["curated", "encoded"]] = "curated"
    streaming_loss: StreamingLossConfig = field(default_factory=StreamingLossConfig)

    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        config, weights = self.load_init(init)
        if config.motion is None:
            raise ValueError("this model has no motion network: train one (gamegen train motion --init ...)")
        if not config.vae.deblocking_channels:
            config = replace(config, vae=replace(config.vae, deblocking_channels=self.deblocking_channels))
        if not config.vae.streaming_reference:
            config = replace(config, vae=replace(config.vae, streaming_reference=True))
            weights = seeing_reference(weights)
        return config, weights | consistent(weights)

    def windows(self, model: ModelConfig) -> PlayedWindows:
        return PlayedWindows()

    def objective(self, model: Model) -> StreamingObjective:
        return StreamingObjective(model, self.streaming_loss)

    def batch_cost(self, model: ModelConfig, batch: PlayedBatch) -> BatchCost:
        vae = autoencoder_flops(model, batch.frames)
        num_frames, height, width = TEMPORAL_FACTOR + 1, *batch.frames.shape[-2:]
        adversarial = (2 * FORWARD_AND_BACKWARD + FORWARD_AND_INPUT_GRADIENT) * discriminator_flops(
            self.streaming_loss.discriminator, num_frames, height, width
        )
        num_trained = min(self.streaming_loss.trained_chunks, batch.num_chunks - 1)
        passes = FORWARD_AND_BACKWARD * num_trained + FORWARD * (batch.num_chunks - 1 - num_trained)
        trained = vae.stream * passes / batch.num_chunks
        return pixel_batch_cost(batch.frames, FORWARD * vae.encode + trained + adversarial)


def consistent(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a streaming decoder that make it consistent with the encoder, see `consistent_weights`."""
    layers = [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in (ENCODER, f"{DECODER}.patch")]
    return {f"{DECODER}.{name}": weight for name, weight in consistent_weights(*layers).items()}


def seeing_reference(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a streaming decoder without reference, widened for one that sees it but has not learned to yet."""
    stem, out = weights[STEM_IN], weights[f"{FRAME_OUT}.weight"]
    channels = stem.shape[1] // 2
    return weights | {
        STEM_IN: F.pad(stem, (0, 0, 0, 0, 0, channels + 2)),
        f"{FRAME_OUT}.weight": F.pad(out, (0, 0, 0, 0, 0, 0, 0, out.shape[0] // 3)),
        f"{FRAME_OUT}.bias": F.pad(weights[f"{FRAME_OUT}.bias"], (0, out.shape[0] // 3)),
    }


class StreamingObjective(Objective):
    """Reconstruction of windows, chunk after chunk, with a discriminator of the last one."""

    model: Model

    def __init__(self, model: Model, config: StreamingLossConfig) -> None:
        self.model, self.vae, self.config = model, model.vae, config
        # Only the streaming decoder learns, without its linear path, which the encoder inverts.
        model.requires_grad_(False)
        self.vae.streaming.requires_grad_(True)
        self.vae.streaming.patch.requires_grad_(False)
        self.discriminator = PatchDiscriminator(config.discriminator).to(model.device)

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"vae.streaming": self.vae.streaming, "discriminator": self.discriminator}

    def loss(self, batch: PlayedBatch, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        latent, batch = self._inputs(batch.to(self.model.device), generator)
        is_there = torch.rand(latent.shape[:2], generator=generator) >= self.config.lost_references
        guesses = self._guesses(latent, generator)
        is_carried = bool(torch.rand((), generator=generator) < self.config.carried_steps)
        num_frames = TEMPORAL_FACTOR * min(self.config.trained_chunks, batch.num_chunks - 1)
        video = self._decode(latent, batch, is_there.to(latent), guesses, is_carried)
        truth = batch.frames[:, -num_frames - 1 :]
        # Motion is also that from the frame shown last, unless that is one to get away from.
        whole = torch.cat([batch.frames[:, :TEMPORAL_FACTOR], video], 1)[:, -num_frames - 1 :]
        video = whole[:, 1:]
        if is_carried:
            whole = torch.cat([truth[:, :1], video], 1)
        loss = picture_loss(whole, truth, self.config)
        drawn, real = whole[:, -TEMPORAL_FACTOR - 1 :], truth[:, -TEMPORAL_FACTOR - 1 :]
        real_scores, real_features = self.discriminator(real)
        judging = hinge_loss(real_scores, self.discriminator(drawn.detach())[0])
        loss = loss + critic_loss(drawn, self.config, self.discriminator, real_features) + judging
        metrics = {"discriminator": judging.item()} | _figures(video, batch, "")
        if not torch.is_grad_enabled():
            plain = self._decode(latent, batch, torch.zeros_like(latent[:, :, 0, 0, 0]), guesses)
            metrics |= _figures(plain[:, -num_frames:], batch, "plain_")
        return loss, metrics

    def _inputs(self, batch: PlayedBatch, generator: torch.Generator) -> tuple[Tensor, PlayedBatch]:
        """Noisy latents `(B, T, C, h, w)`, and the batch, in which some windows stand still from a chunk on."""
        config = self.config
        with torch.no_grad():
            latent = self.vae.encode(batch.frames)
        latent, frames = hold_windows(
            latent,
            batch.frames,
            share=config.held_windows,
            noise_std=config.held_noise * self.model.std_C,
            generator=generator,
        )
        amounts = torch.rand((2, len(latent), 1, 1, 1, 1), generator=generator).to(latent.device)
        share = config.smooth_noise * amounts[1]
        white, coarse = (torch.randn(latent.shape, generator=generator).to(latent.device) for _ in range(2))
        # Averages of 4x4 places, four times as strong, are of unit variance again.
        smooth = F.interpolate(4 * F.avg_pool2d(coarse.flatten(0, 1), 4), latent.shape[-2:]).view_as(latent)
        noise = (1 - share).sqrt() * white + share.sqrt() * smooth
        latent = latent + config.latent_noise * amounts[0] * self.model.std_C * noise
        # Where a window was made to stand still, no key is held.
        moves = (frames[:, 1:] != frames[:, :-1]).flatten(2).any(2)
        operations = batch.operations.clone()
        operations[:, -moves.shape[1] :] *= moves[..., None]
        return latent, PlayedBatch(frames, operations)

    def _guesses(self, latent: Tensor, generator: torch.Generator) -> LatentGuesses | None:
        c = self.config
        return LatentGuesses.draw(self.model, latent, c.guessed_windows, c.guess_levels, generator)

    def _decode(
        self,
        latent: Tensor,
        batch: PlayedBatch,
        is_there: Tensor,
        guesses: LatentGuesses | None = None,
        is_carried: bool = False,
    ) -> Tensor:
        """Frames `(B, 4T - 4, 3, H, W)` of all chunks but the first, each with those shown before as its reference.

        `is_there` `(B, T)` is 0 for the chunks whose reference is lost. The last `trained_chunks` have a gradient; with
        `is_carried` those before them show the frame before, moved.
        """
        shown, decoded, before = batch.chunk(0)[:, -2:], [], latent[:, 0]
        learns = torch.is_grad_enabled()
        for number in range(1, batch.num_chunks):
            now = latent[:, number]
            is_trained = number >= batch.num_chunks - self.config.trained_chunks
            with torch.no_grad():
                reference = refer(self.model, shown, batch.operations_of(number))
                if guesses is not None and (is_trained or not is_carried):
                    now = guesses.of_chunk(number, now, before, reference, batch.operations_of(number))
            reference = reference._replace(is_there=is_there[:, number, None, None, None])
            if is_carried and not is_trained:
                folded = reference.warped
            else:
                with torch.set_grad_enabled(learns and is_trained):
                    folded = self.vae.streaming(now, before, reference)
            before = now
            decoded.append(unfold_frames(folded, 1).float())
            shown = from_pixels(to_pixels(decoded[-1][:, -2:].detach()))
        return torch.cat(decoded, 1)

    @torch.inference_mode()
    def sheet(self, batch: PlayedBatch) -> np.ndarray:
        """Contact sheet: rows of each window's last frame, of its exact latents decoded without and with the reference,
        and of noisy and guessed ones with it."""
        batch = batch.to(self.model.device)
        generator = torch.Generator().manual_seed(0)
        exact, (noisy, _) = self.vae.encode(batch.frames), self._inputs(batch, generator)
        none, all_there = exact.new_zeros(exact.shape[:2]), exact.new_ones(exact.shape[:2])
        rows = [
            batch.frames,
            self._decode(exact, batch, none),
            self._decode(exact, batch, all_there),
            self._decode(noisy, batch, all_there, self._guesses(noisy, generator)),
        ]
        return np.concatenate([np.concatenate(list(to_pixels(row[:6, -1]).cpu().numpy()), 1) for row in rows])


def _figures(video: Tensor, batch: PlayedBatch, prefix: str) -> Metrics:
    """PSNR of all windows and of those that move, all if none does; the shares of the truth's detail and change.

    `video` are the windows' last frames.
    """
    target = batch.frames[:, -video.shape[1] :]
    chunks = batch.frames[:, -video.shape[1] - TEMPORAL_FACTOR :].unflatten(1, (-1, TEMPORAL_FACTOR))
    copied = chunks[:, :-1, -1:].expand_as(chunks[:, 1:])
    moves = (copied - chunks[:, 1:]).square().flatten(1).mean(1) / 4 > MOVING
    moves |= ~moves.any()
    return {
        f"{prefix}psnr_db": psnr_db(video, target),
        f"{prefix}moving_psnr_db": psnr_db(video[moves], target[moves]),
        f"{prefix}detail": detail(video) / max(detail(target), 1e-3),
        f"{prefix}change": change(video) / max(change(target), 1e-3),
    }
