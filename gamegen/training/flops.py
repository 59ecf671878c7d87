"""Floating-point operations of one training step, counted from the shape of its batch.

A forward pass counts once; the gradient of its input costs as much again, and so does that of its weights.
Not counted: optimisers, averaging, the extra pass of scheduled sampling, and the discriminator that joins the
autoencoder late in its run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from gamegen.constants import SPATIAL_FACTOR, TEMPORAL_FACTOR
from gamegen.models.counts import Latents, PartFlops, VAEFlops, forward_flops, measured_flops, vae_flops
from gamegen.models.image_features import image_features
from gamegen.models.model import ModelConfig
from gamegen.models.msdit import PATCH
from gamegen.training.discriminator import DiscriminatorConfig, PatchDiscriminator
from gamegen.training.latent_windows import LatentBatch

FORWARD = 1
FORWARD_AND_INPUT_GRADIENT = 2
FORWARD_AND_BACKWARD = 3
"""Costs of a module in passes: frozen, frozen but passed through by a gradient, and trained."""


@dataclass(frozen=True)
class BatchCost:
    """Size of one batch: samples (windows), transformer tokens, and the floating-point operations of a step on it."""

    samples: int
    tokens: int
    flops: float


def window_flops(model: ModelConfig, batch: LatentBatch) -> PartFlops:
    """Operations of foundation and InstructNet in one window's forward pass."""
    _, T, _, rows, columns = batch.latents.shape
    prompt_tokens = max(batch.prompt.tokens.shape[1], batch.first_prompt.tokens.shape[1])
    instruction_tokens = batch.controls.instruction.tokens.shape[1]
    # Texts differ in length from batch to batch and cost in proportion: counting two lengths gives all of them.
    short, longer = (forward_flops(model, Latents(T, rows, columns, length)) for length in (1, 2))
    return PartFlops(
        short.foundation + (prompt_tokens - 1) * (longer.foundation - short.foundation),
        short.instructnet + (instruction_tokens - 1) * (longer.instructnet - short.instructnet),
    )


def latent_batch_cost(batch: LatentBatch, flops_per_window: float) -> BatchCost:
    """Cost of a batch of latents."""
    B, T, _, rows, columns = batch.latents.shape
    return BatchCost(B, B * Latents(T, rows, columns).tokens, B * flops_per_window)


def pixel_batch_cost(video_BFCHW: Tensor, flops_per_window: float) -> BatchCost:
    """Cost of a batch of pixels; its tokens are those of the latents it is encoded to."""
    B, num_frames, _, height, width = video_BFCHW.shape
    patches = (height // SPATIAL_FACTOR // PATCH) * (width // SPATIAL_FACTOR // PATCH)
    return BatchCost(B, B * (num_frames // TEMPORAL_FACTOR) * patches, float(B * flops_per_window))


def autoencoder_flops(model: ModelConfig, video_BFCHW: Tensor) -> VAEFlops:
    """Operations of the autoencoder's parts in one window's forward pass."""
    _, num_frames, _, height, width = video_BFCHW.shape
    latents = Latents(num_frames // TEMPORAL_FACTOR, height // SPATIAL_FACTOR, width // SPATIAL_FACTOR)
    return vae_flops(replace(model, foundation=None, instructnet=None), latents)


@lru_cache(maxsize=16)
def image_feature_flops(height: int, width: int) -> int:
    """Operations of the perceptual network on one frame."""
    frame = torch.zeros(1, 3, height, width)
    return measured_flops(lambda: image_features()(frame))


@lru_cache(maxsize=16)
def discriminator_flops(config: DiscriminatorConfig, num_frames: int, height: int, width: int) -> int:
    """Operations of the discriminator on one window."""
    with torch.device("meta"):
        discriminator = PatchDiscriminator(config)
        video = torch.empty(1, num_frames, 3, height, width)
    return measured_flops(lambda: discriminator(video))
