"""Causal video VAE: 8x8 in space, 4x in time, 16 channels, and a small decoder for interactive play.

Four frames of a chunk are folded into channels, so every convolution is two-dimensional. A linear patch path
(768 pixel values <-> 16 latent channels, initialised by PCA) carries most of the picture; residual
convolutions add the rest. Time enters only through the previous chunk, so decoding chunk by chunk with a
cache equals decoding at once.

Shape suffixes: B batch, F video frames, T latent frames (F = 4T), C channels, H and W pixels, h and w latent
height and width (H = 8h), N = B * T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from gamegen.constants import SPATIAL_FACTOR, TEMPORAL_FACTOR
from gamegen.device import autocast
from gamegen.models.folding import fold_frames, fold_patches, from_pixels, unfold_frames, unfold_patches
from gamegen.models.streaming_decoder import StreamingDecoder, encoder_buffers
from gamegen.models.vae_layers import CausalMix, ResidualBlock, scale_initial_weights

_USUAL_LOG_VARIANCE = -4.0
"""Logarithm of the posterior's variance that training begins with."""


@dataclass(frozen=True)
class VAEConfig:
    """Widths of the autoencoder; `encoder_channels` at 1/2, 1/4 and 1/8 size, `decoder_channels` from 1/8 to 1/1.

    `streaming_channels` are the widths of the small decoder at 1/8, 1/4 and 1/2 size. With `linear_encoder` the encoder
    is the linear patch path alone: a small part of the time, which motion compensation spends on every chunk. With
    `streaming_reference` the small decoder takes detail from the frame shown last; that needs a linear encoder. With
    `deblocking_channels` it ends in a filter of so many channels against the seams of patches, see `DeblockingFilter`.
    """

    latent_channels: int = 16
    encoder_channels: tuple[int, int, int] = (32, 64, 128)
    bottleneck_channels: int = 192
    decoder_channels: tuple[int, int, int, int] = (192, 96, 48, 24)
    streaming_channels: tuple[int, int, int] = (96, 32, 16)
    linear_encoder: bool = False
    streaming_reference: bool = False
    deblocking_channels: int = 0

    def __post_init__(self) -> None:
        if self.streaming_reference and not self.linear_encoder:
            raise ValueError(
                "streaming_reference is true, but linear_encoder is false: only of a linear encoder it is known "
                "which detail it loses, so set it to true"
            )

    @classmethod
    def tiny(cls) -> VAEConfig:
        """For tests: a few thousand weights."""
        return cls(4, (8, 8, 8), 8, (8, 8, 8, 8), (8, 8, 8), deblocking_channels=8)


class VAEEncoder(nn.Module):
    """Video to latent mean and log-variance."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        c0, c1, c2 = config.encoder_channels
        bottleneck, z = config.bottleneck_channels, config.latent_channels
        self.is_linear = config.linear_encoder
        if self.is_linear:
            self.patch = nn.Conv2d(3 * TEMPORAL_FACTOR * SPATIAL_FACTOR**2, z, 1)
            return
        self.down = nn.Sequential(
            nn.Conv2d(3 * TEMPORAL_FACTOR, c0, 3, stride=2, padding=1),
            ResidualBlock(c0),
            nn.Conv2d(c0, c1, 3, stride=2, padding=1),
            ResidualBlock(c1),
            nn.Conv2d(c1, c2, 3, stride=2, padding=1),
            ResidualBlock(c2),
            nn.Conv2d(c2, bottleneck, 1),
        )
        self.mix = CausalMix(bottleneck)
        self.out = nn.Sequential(
            ResidualBlock(bottleneck),
            ResidualBlock(bottleneck),
            nn.GroupNorm(8, bottleneck),
            nn.SiLU(),
            nn.Conv2d(bottleneck, 2 * z, 1),
        )
        self.patch = nn.Conv2d(3 * TEMPORAL_FACTOR * SPATIAL_FACTOR**2, z, 1)
        scale_initial_weights(self.out[-1], 0.1)

    def forward(self, folded_NCHW: Tensor, T: int) -> tuple[Tensor, Tensor]:
        linear_NCHW = self.patch(fold_patches(folded_NCHW))
        if self.is_linear:
            return linear_NCHW.float(), torch.full_like(linear_NCHW, _USUAL_LOG_VARIANCE, dtype=torch.float32)
        features, _ = self.mix(self.down(folded_NCHW.contiguous(memory_format=torch.channels_last)), T, None)
        mean, log_variance = self.out(features).float().chunk(2, 1)
        return mean + linear_NCHW.float(), (log_variance + _USUAL_LOG_VARIANCE).clamp(-14, 2)


class VAEDecoder(nn.Module):
    """Latents to video; `cache` holds the states of the causal mixes between chunks."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        c0, z = config.decoder_channels[0], config.latent_channels
        self.stem = nn.Conv2d(z, c0, 3, padding=1)
        self.blocks = nn.ModuleList([ResidualBlock(c0), ResidualBlock(c0)])
        self.mixes = nn.ModuleList([CausalMix(c0), CausalMix(c0)])
        up: list[nn.Module] = []
        for wide, narrow in zip(config.decoder_channels, config.decoder_channels[1:], strict=False):
            up += [nn.Conv2d(wide, 4 * narrow, 1), nn.PixelShuffle(2), ResidualBlock(narrow)]
        last = config.decoder_channels[-1]
        self.up = nn.Sequential(*up, nn.SiLU(), nn.Conv2d(last, 3 * TEMPORAL_FACTOR, 3, padding=1))
        self.patch = nn.Conv2d(z, 3 * TEMPORAL_FACTOR * SPATIAL_FACTOR**2, 1)
        scale_initial_weights(self.up[-1], 0.1)

    def forward(
        self, latent_NCHW: Tensor, T: int, cache: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        x, states = self.mixed(latent_NCHW, T, cache)
        return self.up(x) + unfold_patches(self.patch(latent_NCHW)), states

    def mixed(
        self, latent_NCHW: Tensor, T: int, cache: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Features at 1/8 size, the only stage that mixes frames, and the mixes' states for the next chunk."""
        x = self.stem(latent_NCHW.contiguous(memory_format=torch.channels_last))
        states = []
        for i, (mix, block) in enumerate(zip(self.mixes, self.blocks, strict=True)):
            x, state = mix(x, T, cache[i] if cache else None)
            states.append(state)
            x = block(x)
        return x, states


class CausalVideoVAE(nn.Module):
    """Encoder, decoder and streaming decoder over one latent space."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VAEEncoder(config)
        self.decoder = VAEDecoder(config)
        self.streaming = StreamingDecoder(
            config.latent_channels,
            config.streaming_channels,
            config.streaming_reference,
            config.deblocking_channels,
        )
        if config.streaming_reference:
            self.register_load_state_dict_pre_hook(_add_encoder_buffers)

    def encode_moments(self, video_BFCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each `(B, T, 16, h, w)` float32, of a video in [-1, 1] with F = 4T frames."""
        T = video_BFCHW.shape[1] // TEMPORAL_FACTOR
        mean, log_variance = self.encoder(fold_frames(video_BFCHW), T)
        return (
            rearrange(mean, "(b t) c h w -> b t c h w", t=T),
            rearrange(log_variance, "(b t) c h w -> b t c h w", t=T),
        )

    def encode(self, video_BFCHW: Tensor) -> Tensor:
        """Latents `(B, T, 16, h, w)` (the posterior mean) of a video in [-1, 1] with F = 4T frames."""
        return self.encode_moments(video_BFCHW)[0]

    def decode(self, latent_BTCHW: Tensor) -> Tensor:
        """Video `(B, 4T, 3, H, W)`, about [-1, 1], of latents `(B, T, 16, h, w)`, all at once."""
        return self.decode_chunks(latent_BTCHW, None)[0]

    def decode_chunks(self, latent_BTCHW: Tensor, cache: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Decodes the next latents of a stream; pass the returned cache to the next call (None at the start)."""
        T = latent_BTCHW.shape[1]
        folded, cache = self.decoder(rearrange(latent_BTCHW, "b t c h w -> (b t) c h w"), T, cache)
        return unfold_frames(folded, T), cache

    def decode_streaming(self, latent_BTCHW: Tensor) -> Tensor:
        """Video as from `decode`, by the streaming decoder."""
        memory = torch.cat([torch.zeros_like(latent_BTCHW[:, :1]), latent_BTCHW[:, :-1]], 1)
        folded = self.streaming(latent_BTCHW.flatten(0, 1), memory.flatten(0, 1))
        return unfold_frames(folded, latent_BTCHW.shape[1])

    @torch.no_grad()
    def initialise_from_patches(self, video_BFCHW: Tensor) -> None:
        """Initialises the linear patch paths with the whitened principal components of a sample of video.

        The autoencoder then starts as the best linear one, with latents of unit variance.
        """
        patches = fold_patches(fold_frames(video_BFCHW))
        rows = rearrange(patches, "n p h w -> (n h w) p").double()
        mean = rows.mean(0)
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
        variance, basis = torch.linalg.eigh(covariance)
        k = self.config.latent_channels
        basis, deviation = basis[:, -k:].flip(1), variance[-k:].flip(0).clamp_min(1e-8).sqrt()
        _set_linear(self.encoder.patch, (basis / deviation).T, -(mean @ basis) / deviation)
        for decoder in (self.decoder, self.streaming):
            _set_linear(decoder.patch, basis * deviation, mean)


def _set_linear(layer: nn.Conv2d, matrix: Tensor, bias: Tensor) -> None:
    """Makes a 1x1 convolution compute `matrix @ x + bias`."""
    assert layer.bias is not None
    layer.weight.copy_(matrix[..., None, None])
    layer.bias.copy_(bias)


@torch.inference_mode()
def encode_frames(frames: np.ndarray, vae: CausalVideoVAE, frames_per_pass: int = 48) -> np.ndarray:
    """Latents, float16 `(N, C, h, w)`, of uint8 frames `(T, H, W, 3)`; T // 4 chunks, a remainder is dropped.

    Passes overlap by one chunk, because a chunk's latent depends on the chunk before it.
    """
    device = next(vae.parameters()).device
    usable = len(frames) // TEMPORAL_FACTOR * TEMPORAL_FACTOR
    pieces = []
    for start in range(0, usable, frames_per_pass):
        lead = TEMPORAL_FACTOR if start else 0
        video = from_pixels(torch.from_numpy(frames[start - lead : min(start + frames_per_pass, usable)]))
        with autocast(device):
            latent = vae.encode(video[None].to(device))[0]
        pieces.append(latent[lead // TEMPORAL_FACTOR :].float().cpu().numpy())
    return np.concatenate(pieces).astype(np.float16)


def _add_encoder_buffers(_: nn.Module, weights: dict[str, Tensor], prefix: str, *__: object) -> None:
    """Computes the buffers of a consistent streaming decoder that weights of earlier versions lack."""
    encoder, buffer = f"{prefix}encoder.patch", f"{prefix}streaming.encoder_inverse"
    if buffer not in weights and f"{encoder}.weight" in weights:
        found = encoder_buffers(weights[f"{encoder}.weight"], weights[f"{encoder}.bias"])
        for name in ("encoder_inverse", "encoder_origin"):
            weights[f"{prefix}streaming.{name}"] = found[name]
