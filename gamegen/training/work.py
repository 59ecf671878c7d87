"""What one training step computes, counted from the batch's shape.

A pass forward counts once, its gradient twice more where weights learn and once more where it only runs through.
Not counted: optimisers, averaging, the extra pass in which a model makes the past of some windows itself, and the
discriminator that joins the autoencoder late in its run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from gamegen.models.checkpoint import ModelConfig
from gamegen.models.counts import Latents, PartFlops, forward_flops, measured_flops, vae_flops
from gamegen.models.image_features import image_features
from gamegen.models.inverse_dynamics import MAP_CHANNELS, InverseDynamics, InverseDynamicsConfig
from gamegen.models.msdit import PATCH
from gamegen.models.vae import SPATIAL_FACTOR, TEMPORAL_FACTOR
from gamegen.training.config import DecoderLossConfig, StageConfig
from gamegen.training.discriminator import PatchDiscriminator
from gamegen.training.latents import LatentBatch
from gamegen.training.recorded import RecordedBatch
from gamegen.training.throughput import Work

LEARNING, PASSING_THROUGH, FORWARD = 3, 2, 1
"""Passes' worth of computing: forward and both gradients, forward and that of the input, forward alone."""


def work_counter(
    model: ModelConfig | InverseDynamicsConfig, stage: StageConfig
) -> Callable[[LatentBatch | RecordedBatch | Tensor], Work]:
    """A function from a stage's batches to the work of a step on them."""
    if isinstance(model, InverseDynamicsConfig):
        return lambda batch: _recorded_work(model, batch)  # type: ignore[arg-type]
    if stage.stage in ("vae", "decoder"):
        return lambda video: _pixel_work(model, stage, video)  # type: ignore[arg-type]
    return lambda batch: _latent_work(model, stage, batch)  # type: ignore[arg-type]


def _latent_work(model: ModelConfig, stage: StageConfig, batch: LatentBatch) -> Work:
    B, T, _, rows, columns = batch.latents.shape
    prompt = max(batch.prompt.tokens.shape[1], batch.first_prompt.tokens.shape[1])
    instruction = batch.controls.instruction.tokens.shape[1]
    one = _window_flops(model, T, rows, columns, prompt, instruction)
    if stage.stage == "turbo":
        # The student learns; the guided teacher takes two passes and the student's slow copy one.
        flops = float((LEARNING + 3 * FORWARD) * one.total)
    elif one.instructnet == 0 or stage.flow.train_foundation:
        flops = LEARNING * one.total
    else:
        # The first layer comes before any of InstructNet, so no gradient goes back through it.
        assert model.foundation is not None
        flops = (
            PASSING_THROUGH - 1 / model.foundation.num_layers
        ) * one.foundation + LEARNING * one.instructnet
    return Work(B, B * Latents(T, rows, columns).tokens, B * flops)


def _window_flops(
    model: ModelConfig, frames: int, rows: int, columns: int, prompt_tokens: int, instruction_tokens: int
) -> PartFlops:
    """One window's pass. Texts differ in length from batch to batch and cost in proportion, so two are counted."""
    short, longer = (forward_flops(model, Latents(frames, rows, columns, length)) for length in (1, 2))
    return PartFlops(
        short.foundation + (prompt_tokens - 1) * (longer.foundation - short.foundation),
        short.instructnet + (instruction_tokens - 1) * (longer.instructnet - short.instructnet),
    )


def _pixel_work(model: ModelConfig, stage: StageConfig, video: Tensor) -> Work:
    B, num_frames, _, height, width = video.shape
    latents = Latents(num_frames // TEMPORAL_FACTOR, height // SPATIAL_FACTOR, width // SPATIAL_FACTOR)
    vae = vae_flops(replace(model, foundation=None, instructnet=None), latents)
    if stage.stage == "vae":
        watched = 2 * stage.vae_loss.perceptual_frames * (PASSING_THROUGH + FORWARD)
        perceptual = watched * _feature_flops(height, width) / B
        flops = LEARNING * (vae.encode + vae.decode + vae.stream) + perceptual
    else:
        judged = _discriminator_flops(stage.decoder_loss, num_frames, height, width)
        # It learns from the truth and from both decoders, and passes its score on to each of them.
        judging = (3 * LEARNING + 2 * PASSING_THROUGH) * judged
        flops = FORWARD * vae.encode + LEARNING * (vae.decode + vae.stream) + judging
    places = (height // SPATIAL_FACTOR // PATCH) * (width // SPATIAL_FACTOR // PATCH)
    return Work(B, B * latents.frames * places, float(B * flops))


def _recorded_work(model: InverseDynamicsConfig, batch: RecordedBatch) -> Work:
    """Inverse dynamics; its tokens are the steps between frames."""
    B, T = batch.maps.shape[:2]
    return Work(B, B * T, float(LEARNING * B * _motion_flops(model, T)))


@lru_cache(maxsize=16)
def _motion_flops(config: InverseDynamicsConfig, steps: int) -> int:
    columns, rows = config.cells
    with torch.device("meta"):
        model = InverseDynamics(config)
        maps = torch.empty(1, steps, MAP_CHANNELS, rows, columns)
    return measured_flops(lambda: model(maps))


@lru_cache(maxsize=16)
def _feature_flops(height: int, width: int) -> int:
    frame = torch.zeros(1, 3, height, width)
    return measured_flops(lambda: image_features()(frame))


@lru_cache(maxsize=16)
def _discriminator_flops(config: DecoderLossConfig, num_frames: int, height: int, width: int) -> int:
    with torch.device("meta"):
        discriminator = PatchDiscriminator(config.discriminator)
        video = torch.empty(1, num_frames, 3, height, width)
    return measured_flops(lambda: discriminator(video))
