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
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gamegen.device import autocast

SPATIAL_FACTOR = 8
TEMPORAL_FACTOR = 4
HOLD_CHANGE = 0.15
"""Root-mean-square change of a latent (whose channels vary by about 1) below which a place stands still."""


@dataclass(frozen=True)
class VAEConfig:
    """Widths of the autoencoder; `encoder_channels` at 1/2, 1/4 and 1/8 size, `decoder_channels` from 1/8 to 1/1.

    `streaming_channels` are the widths of the small decoder at 1/8, 1/4 and 1/2 size.
    """

    latent_channels: int = 16
    encoder_channels: tuple[int, int, int] = (32, 64, 128)
    bottleneck_channels: int = 192
    decoder_channels: tuple[int, int, int, int] = (192, 96, 48, 24)
    streaming_channels: tuple[int, int, int] = (96, 32, 16)

    @classmethod
    def tiny(cls) -> VAEConfig:
        """For tests: a few thousand weights."""
        return cls(4, (8, 8, 8), 8, (8, 8, 8, 8), (8, 8, 8))


class ResidualBlock(nn.Module):
    """GroupNorm, two 3x3 convolutions, the second starting at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        _start_small(self.conv_out, 0.0)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.conv_out(F.silu(self.conv_in(F.silu(self.norm(x_NCHW)))))


class CausalMix(nn.Module):
    """Adds a 1x1 projection of the previous latent frame's features; zero-initialised, zeros before the first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1)
        _start_small(self.project, 0.0)

    def forward(self, x_NCHW: Tensor, T: int, cache: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the mixed features and the new cache: the last frame's features `(B, C, H, W)`."""
        x_BTCHW = rearrange(x_NCHW, "(b t) c h w -> b t c h w", t=T)
        first = torch.zeros_like(x_BTCHW[:, :1]) if cache is None else cache[:, None]
        previous = rearrange(torch.cat([first, x_BTCHW[:, :-1]], 1), "b t c h w -> (b t) c h w")
        return x_NCHW + self.project(previous), x_BTCHW[:, -1]


class Encoder(nn.Module):
    """Video to latent mean and log-variance."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        c0, c1, c2 = config.encoder_channels
        bottleneck, z = config.bottleneck_channels, config.latent_channels
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
        _start_small(self.out[-1], 0.1)

    def forward(self, folded_NCHW: Tensor, T: int) -> tuple[Tensor, Tensor]:
        linear_NCHW = self.patch(fold_patches(folded_NCHW))
        features, _ = self.mix(self.down(folded_NCHW.contiguous(memory_format=torch.channels_last)), T, None)
        mean, log_variance = self.out(features).float().chunk(2, 1)
        return mean + linear_NCHW.float(), (log_variance - 4).clamp(-14, 2)


class Decoder(nn.Module):
    """Latents to video; `cache` holds the causal mixes' memories between chunks."""

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
        _start_small(self.up[-1], 0.1)

    def forward(
        self, latent_NCHW: Tensor, T: int, cache: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        x, memories = self.mixed(latent_NCHW, T, cache)
        return self.up(x) + unfold_patches(self.patch(latent_NCHW)), memories

    def mixed(
        self, latent_NCHW: Tensor, T: int, cache: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Features at 1/8 size, where alone time enters, and the memories for the next chunk."""
        x = self.stem(latent_NCHW.contiguous(memory_format=torch.channels_last))
        memories = []
        for i, (mix, block) in enumerate(zip(self.mixes, self.blocks, strict=True)):
            x, memory = mix(x, T, cache[i] if cache else None)
            memories.append(memory)
            x = block(x)
        return x, memories


class Left(NamedTuple):
    """What is left to draw of a chunk: features `(N, 2c, h, w)` and patches `(N, 384, h, w)` of two frames, and how
    still the picture stands, `(N, 1, H, W)`."""

    features: Tensor
    patches: Tensor
    hold: Tensor


class StreamingDecoder(nn.Module):
    """Small decoder for play: 2-D convolutions on each frame and a memory of the last latent.

    In the manner of TAEHV (tiny autoencoders for hosted video models): quick enough for two CPU cores.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        c0, c1, c2 = config.streaming_channels
        z = config.latent_channels
        self.stem = nn.Sequential(nn.Conv2d(2 * z, c0, 3, padding=1), ResidualBlock(c0), ResidualBlock(c0))
        self.to_frames = nn.Conv2d(c0, TEMPORAL_FACTOR * c1, 1)
        self.frame = nn.Sequential(
            ResidualBlock(c1),
            nn.Conv2d(c1, 4 * c1, 1),
            nn.PixelShuffle(2),
            ResidualBlock(c1),
            nn.Conv2d(c1, 4 * c2, 1),
            nn.PixelShuffle(2),
            ResidualBlock(c2),
            nn.SiLU(),
            nn.Conv2d(c2, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.patch = nn.Conv2d(z, 3 * TEMPORAL_FACTOR * SPATIAL_FACTOR**2, 1)
        _start_small(self.frame[-2], 0.1)

    def forward(self, latent_NCHW: Tensor, memory_NCHW: Tensor) -> Tensor:
        """Latents and the latents before them (zeros before the first), to folded frames `(N, 12, H, W)`."""
        first, last, left = self.ends(latent_NCHW, memory_NCHW)
        return torch.cat([first, self.between(last, left), last], 1)

    def ends(self, latent_NCHW: Tensor, memory_NCHW: Tensor) -> tuple[Tensor, Tensor, Left]:
        """The first and the last frame, `(N, 3, H, W)`, and what `between` needs to draw those between them.

        The first can be shown while they are drawn; the last is what all others are where the world stands still.
        """
        pair = torch.cat([latent_NCHW, memory_NCHW], 1).contiguous(memory_format=torch.channels_last)
        features, patches = self.to_frames(F.silu(self.stem(pair))), self.patch(latent_NCHW)
        drawn = self._draw(_at_ends(features), _at_ends(patches))
        first, last = drawn.chunk(2, 1)
        hold = stillness(latent_NCHW, memory_NCHW)
        return hold_still(first, last, hold), last, Left(_between(features), _between(patches), hold)

    def between(self, last_NCHW: Tensor, left: Left) -> Tensor:
        """The folded frames between the ends, `(N, 6, H, W)`."""
        return hold_still(self._draw(left.features, left.patches), last_NCHW, left.hold)

    def _draw(self, features: Tensor, patches: Tensor) -> Tensor:
        """Some of the folded frames, `(N, 3k, H, W)`, of their features and patches."""
        k = patches.shape[1] // (3 * SPATIAL_FACTOR**2)
        frames = self.frame(rearrange(features, "n (k c) h w -> (n k) c h w", k=k))
        return rearrange(frames, "(n k) c h w -> n (k c) h w", k=k) + unfold_patches(patches)


class CausalVideoVAE(nn.Module):
    """Encoder, decoder and streaming decoder over one latent space."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.streaming = StreamingDecoder(config)

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
        """Like `decode`, by the small decoder."""
        memory = torch.cat([torch.zeros_like(latent_BTCHW[:, :1]), latent_BTCHW[:, :-1]], 1)
        folded = self.streaming(latent_BTCHW.flatten(0, 1), memory.flatten(0, 1))
        return unfold_frames(folded, latent_BTCHW.shape[1])

    @torch.no_grad()
    def initialise_from_patches(self, video_BFCHW: Tensor) -> None:
        """Sets the linear patch paths to the whitened principal components of a sample of video.

        With this the autoencoder starts where a linear one ends, and latents start with unit variance.
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


def stillness(latent_NCHW: Tensor, memory_NCHW: Tensor) -> Tensor:
    """Where the latent is the one before it again: 0 (it is not) to 1 for each pixel, `(N, 1, H, W)`.

    A latent holds four frames and so the motion in them. Footage that stands still repeats latents without any; a
    world that stands still repeats whatever latent it came to rest on, whose motion would play as a loop.
    """
    change_N1HW = (latent_NCHW - memory_NCHW).square().mean(1, keepdim=True)
    change_N1HW = F.avg_pool2d(change_N1HW, 3, 1, 1, count_include_pad=False)
    hold = torch.exp(-((change_N1HW / HOLD_CHANGE**2) ** 2))
    return F.interpolate(hold, scale_factor=SPATIAL_FACTOR, mode="bilinear")


def hold_still(folded_NCHW: Tensor, last_NCHW: Tensor, hold: Tensor) -> Tensor:
    """Folded frames that show the last one of their chunk where the picture stands still."""
    return torch.lerp(folded_NCHW, last_NCHW.tile(folded_NCHW.shape[1] // 3, 1, 1), hold)


def _at_ends(folded_NCHW: Tensor) -> Tensor:
    """The first and the last of four frames that lie folded in the channels."""
    c = folded_NCHW.shape[1] // TEMPORAL_FACTOR
    return torch.cat([folded_NCHW[:, :c], folded_NCHW[:, -c:]], 1)


def _between(folded_NCHW: Tensor) -> Tensor:
    """The two frames between those."""
    c = folded_NCHW.shape[1] // TEMPORAL_FACTOR
    return folded_NCHW[:, c:-c]


def _start_small(layer: nn.Module, scale: float) -> None:
    """Starts a convolution at `scale` times its usual weights and no bias."""
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    layer.weight.data.mul_(scale)
    layer.bias.data.zero_()


def _set_linear(layer: nn.Conv2d, matrix: Tensor, bias: Tensor) -> None:
    """Makes a 1x1 convolution compute `matrix @ x + bias`."""
    assert layer.bias is not None
    layer.weight.copy_(matrix[..., None, None])
    layer.bias.copy_(bias)


def fold_frames(video_BFCHW: Tensor) -> Tensor:
    """`(B, 4T, 3, H, W)` to `(B * T, 12, H, W)`."""
    return rearrange(video_BFCHW, "b (t k) c h w -> (b t) (k c) h w", k=TEMPORAL_FACTOR)


def unfold_frames(folded_NCHW: Tensor, T: int) -> Tensor:
    """The inverse of `fold_frames`."""
    return rearrange(folded_NCHW, "(b t) (k c) h w -> b (t k) c h w", t=T, k=TEMPORAL_FACTOR)


def fold_patches(folded_NCHW: Tensor) -> Tensor:
    """8x8 blocks into channels: `(N, 12, H, W)` to `(N, 768, h, w)`."""
    return rearrange(folded_NCHW, "n c (h p) (w q) -> n (c p q) h w", p=SPATIAL_FACTOR, q=SPATIAL_FACTOR)


def unfold_patches(patches_NCHW: Tensor) -> Tensor:
    """The inverse of `fold_patches`."""
    return rearrange(patches_NCHW, "n (c p q) h w -> n c (h p) (w q)", p=SPATIAL_FACTOR, q=SPATIAL_FACTOR)


def to_pixels(video: Tensor) -> Tensor:
    """Float frames `(..., C, H, W)` in [-1, 1] to uint8 `(..., H, W, C)`."""
    scaled = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(scaled, "... c h w -> ... h w c")


def chunk_pixels(folded_BCHW: Tensor) -> Tensor:
    """Folded frames of one chunk a session, `(B, 12, H, W)`, to uint8 `(B, 4, H, W, 3)`."""
    return to_pixels(rearrange(folded_BCHW, "b (k c) h w -> b k c h w", c=3))


def from_pixels(frames: Tensor) -> Tensor:
    """uint8 `(..., H, W, C)` to float32 `(..., C, H, W)` in [-1, 1]."""
    return rearrange(frames, "... h w c -> ... c h w").float().div(127.5).sub(1)


@torch.inference_mode()
def encode_frames(frames: np.ndarray, vae: CausalVideoVAE, frames_per_pass: int = 48) -> np.ndarray:
    """Latents, float16 `(N, C, h, w)`, of uint8 frames `(T, H, W, 3)`; T // 4 chunks, a rest is left out.

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
