"""Streaming decoder: the small decoder of interactive play, which draws a chunk's first frame before the others.

A latent holds a 48th of a chunk's values. With a reference, the frame shown last as the motion network moves it, the
decoder adds the detail that no latent holds: as far as a learned mask lets it, the part of the moved frame that the
linear encoder loses, in place of what it draws itself. The rest is the latent's, so that what has changed shows.

What is shown is encoded again for the next chunk. A decoder with a reference is therefore consistent: its linear path
is a right inverse of the encoder, and from what its layers add the part that the encoder sees is taken away (range and
null space: Schwab et al. 2019, "Deep null space learning"; as DDNM: Wang et al. 2023). Of what it shows, before the
filter at the end and where the mask is even, the encoder makes the latent that it was given. Otherwise a pattern that
it shows a little too strongly would grow from chunk to chunk.

What the encoder loses, nothing corrects. Warping moves a little of what it sees there, the diffusion model draws that
anew, and the sum over many chunks would be stripes. Therefore a moved frame's detail is taken by orthogonal projection,
which makes it no larger, at most `MAX_SHARE` of it lasts for another chunk, and its values are limited to `MAX_DETAIL`.

Shape suffixes as in `vae.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gamegen.constants import SPATIAL_FACTOR, TEMPORAL_FACTOR
from gamegen.models.folding import unfold_patches
from gamegen.models.vae_layers import ResidualBlock, scale_initial_weights

HOLD_CHANGE = 0.15
"""Root-mean-square change of a latent (whose channels vary by about 1) below which a place stands still."""

MAX_SHARE, MAX_DETAIL = 0.8, 0.25
"""Limits of the reference's detail: of the share of it that is shown, and of its values, in a range from -1 to 1."""


ENDS, BETWEEN, LAST_TWO = (0, 3), (1, 2), (2, 3)
"""Numbers of frames in a chunk that are decoded together."""


class Reference(NamedTuple):
    """The frame shown last, moved to where the motion network expects it in each frame of a chunk.

    `warped` `(N, 12, H, W)` are the moved frames, folded, `latent` `(N, z, h, w)` what the encoder makes of them,
    `confidence` `(N, 1, h, w)` as in `gamegen.models.motion_compensation`. Where `is_there` `(N, 1, 1, 1)` is 0 there
    is none, and the rest means nothing. `kept` `(N, 1, h, w)` is the share of the moved frames that is shown as it is,
    in place of what is decoded: no network sees it.
    """

    warped: Tensor
    latent: Tensor
    confidence: Tensor
    is_there: Tensor
    kept: Tensor

    @classmethod
    def none(cls, latent_NCHW: Tensor) -> Reference:
        """No reference, for a batch of latents."""
        N, _, h, w = latent_NCHW.shape
        warped = latent_NCHW.new_zeros(N, 3 * TEMPORAL_FACTOR, SPATIAL_FACTOR * h, SPATIAL_FACTOR * w)
        return cls(
            warped,
            torch.zeros_like(latent_NCHW),
            torch.zeros_like(latent_NCHW[:, :1]),
            latent_NCHW.new_zeros(N, 1, 1, 1),
            torch.zeros_like(latent_NCHW[:, :1]),
        )

    def show_kept(self, folded_NCHW: Tensor, numbers: tuple[int, ...]) -> Tensor:
        """Decoded frames of these numbers in the chunk, folded, with the share of the moved ones that is kept."""
        kept = F.interpolate(self.kept, scale_factor=SPATIAL_FACTOR, mode="bilinear")
        return folded_NCHW + kept * (_some_frames(self.warped, numbers) - folded_NCHW)

    @classmethod
    def batch(cls, rows: Sequence[Reference | None], latent_NCHW: Tensor) -> Reference:
        """References of one row each, or None, as one for a batch of latents."""
        whole = cls.none(latent_NCHW)
        for number, row in enumerate(rows):
            for part, values in zip(whole, row or (), strict=False):
                part[number] = values[0].to(part)
        return whole

    def row(self, number: int) -> Reference:
        """The reference of one row, in float16, as it is kept and sent to a decoder elsewhere."""
        return Reference(*(part[number : number + 1].half().cpu() for part in self))

    def arrays(self) -> tuple[np.ndarray, ...]:
        """As arrays, for another process."""
        return tuple(part.numpy() for part in self)

    @classmethod
    def from_arrays(cls, arrays: Sequence[np.ndarray]) -> Reference:
        """The inverse of `arrays`."""
        # Copied, because arrays from another process may be read-only.
        return cls(*(torch.from_numpy(part.copy()) for part in arrays))


class RemainingFrames(NamedTuple):
    """Inputs for a chunk's two middle frames, which are decoded last.

    Features `(N, 2c, h, w)` and patches `(N, 384, h, w)` of both frames, the stillness `hold` `(N, 1, H, W)`, and the
    detail `(N, 8, H, W)` that a reference has, three colours and whether it is there, None in decoders that see none.
    """

    features: Tensor
    patches: Tensor
    hold: Tensor
    detail: Tensor | None = None


class _Features(NamedTuple):
    """Features, patches and reference detail of all four frames, folded; the stem's output."""

    features: Tensor
    patches: Tensor
    detail: Tensor | None

    def frames(self, numbers: tuple[int, ...]) -> _Features:
        """The features of the frames of these numbers in the chunk."""
        detail = None if self.detail is None else _some_frames(self.detail, numbers)
        return _Features(_some_frames(self.features, numbers), _some_frames(self.patches, numbers), detail)


class DeblockingFilter(nn.Module):
    """Smooths the seams between patches of 8x8 pixels: blends each pixel with a weighted mean of the 3x3 around it.

    Latents that are drawn do not agree as well with their neighbours as encoded ones do, and what is shown is drawn
    from again. Video codecs filter inside of that loop for the same reason (ITU-T H.264, section 8.7). A network
    predicts the weights (Bako et al. 2017, "Kernel-Predicting Convolutional Networks") and how much of the mean to
    take, at first nothing. All are positive and a pixel's add up to 1, so that nothing grows from chunk to chunk,
    as it does where a filter may sharpen. The network works at half size, where each place is told how it lies in
    its patch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(2), nn.PixelShuffle(2)
        self.kernels = nn.Sequential(
            nn.Conv2d(12 + 4, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, 4 * 10, 3, padding=1)
        )
        scale_initial_weights(self.kernels[-1], 0.0)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        halves = self.unshuffle(frames_NCHW)
        N, _, rows, columns = halves.shape
        places = [
            torch.arange(side, device=halves.device, dtype=halves.dtype)
            * (2 * math.pi / (SPATIAL_FACTOR // 2))
            for side in (rows, columns)
        ]
        y, x = torch.meshgrid(*places, indexing="ij")
        maps = torch.stack([y.cos(), y.sin(), x.cos(), x.sin()]).expand(N, 4, rows, columns)
        predicted = self.shuffle(self.kernels(torch.cat([halves, maps], 1)))
        weights_N9HW, amount_N1HW = predicted[:, :9].softmax(1), predicted[:, 9:].clamp(0, 1)
        padded = F.pad(frames_NCHW, (1, 1, 1, 1), mode="replicate")
        height, width = 2 * rows, 2 * columns
        around = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        parts = [pixels * weights_N9HW[:, k : k + 1] for k, pixels in enumerate(around)]
        return frames_NCHW + amount_N1HW * (torch.stack(parts).sum(0) - frames_NCHW)


class StreamingDecoder(nn.Module):
    """Small decoder: 2-D convolutions on each frame, given the latent and the one before it.

    In the manner of TAEHV (tiny autoencoders for hosted video models): fast enough for two CPU cores. One that
    `sees_reference` is also given a `Reference`, and gets along without.
    """

    encoder_bases: Tensor
    encoder_inverse: Tensor
    encoder_origin: Tensor

    def __init__(
        self,
        latent_channels: int,
        channels: tuple[int, int, int],
        sees_reference: bool = False,
        deblocking_channels: int = 0,
    ) -> None:
        super().__init__()
        c0, c1, c2 = channels
        z = latent_channels
        self.sees_reference = sees_reference
        # With the reference's latent come maps that say how far to trust it, and whether it is there.
        num_inputs = 3 * z + 2 if sees_reference else 2 * z
        self.stem = nn.Sequential(
            nn.Conv2d(num_inputs, c0, 3, padding=1), ResidualBlock(c0), ResidualBlock(c0)
        )
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
            # Red, green and blue, and how much of the reference's detail to show instead.
            nn.Conv2d(c2, 16 if sees_reference else 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.patch = nn.Conv2d(z, 3 * TEMPORAL_FACTOR * SPATIAL_FACTOR**2, 1)
        scale_initial_weights(self.frame[-2], 0.1)
        self.deblocking = DeblockingFilter(deblocking_channels) if deblocking_channels else None
        if sees_reference:
            # Set by `consistent_weights`: of what the encoder sees of each frame's patches an orthonormal basis, and
            # weight and bias of its pseudo-inverse.
            size = 3 * SPATIAL_FACTOR**2
            self.register_buffer("encoder_bases", torch.zeros(TEMPORAL_FACTOR, z, size))
            self.register_buffer("encoder_inverse", torch.zeros(TEMPORAL_FACTOR * size, z, 1, 1))
            self.register_buffer("encoder_origin", torch.zeros(TEMPORAL_FACTOR * size))

    def forward(self, latent_NCHW: Tensor, memory_NCHW: Tensor, reference: Reference | None = None) -> Tensor:
        """Folded frames `(N, 12, H, W)` of latents, given the latents before them (zeros before the first)."""
        first, last, left = self.ends(latent_NCHW, memory_NCHW, reference)
        return torch.cat([first, self.between(last, left), last], 1)

    def ends(
        self, latent_NCHW: Tensor, memory_NCHW: Tensor, reference: Reference | None = None
    ) -> tuple[Tensor, Tensor, RemainingFrames]:
        """The first and the last frame, `(N, 3, H, W)`, and the inputs of `between` for the other two.

        The first can be shown while those are decoded; where the world stands still, all frames equal the last.
        """
        found = self._features(latent_NCHW, memory_NCHW, reference)
        first, last = self._decode(found.frames(ENDS), ENDS).chunk(2, 1)
        hold = stillness(latent_NCHW, memory_NCHW)
        features, patches, detail = found.frames(BETWEEN)
        return hold_still(first, last, hold), last, RemainingFrames(features, patches, hold, detail)

    def between(self, last_NCHW: Tensor, left: RemainingFrames) -> Tensor:
        """The folded frames between the ends, `(N, 6, H, W)`."""
        frames = self._decode(_Features(left.features, left.patches, left.detail), BETWEEN)
        return hold_still(frames, last_NCHW, left.hold)

    def last_two(self, latent_NCHW: Tensor, memory_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The last frame but one and the last frame without a reference, each `(N, 3, H, W)`; no others are decoded."""
        found = self._features(latent_NCHW, memory_NCHW, None)
        before, last = self._decode(found.frames(LAST_TWO), LAST_TWO).chunk(2, 1)
        return hold_still(before, last, stillness(latent_NCHW, memory_NCHW)), last

    def _features(self, latent_NCHW: Tensor, memory_NCHW: Tensor, reference: Reference | None) -> _Features:
        inputs, detail = [latent_NCHW, memory_NCHW], None
        if self.sees_reference:
            reference = reference or Reference.none(latent_NCHW)
            there = reference.is_there
            maps = torch.cat([reference.latent, reference.confidence], 1) * there
            inputs += [maps, there.expand_as(reference.confidence)]
        x = self.stem(torch.cat(inputs, 1).contiguous(memory_format=torch.channels_last))
        x = F.silu(x)
        patches = self.patch(latent_NCHW)
        if reference is not None and self.sees_reference:
            # What the encoder sees of the latents' own patches stays, whatever the mask; the detail replaces the rest.
            seen = self._seen_patches(latent_NCHW)
            detail = reference.warped - unfold_patches(self._seen_patches(reference.latent))
            detail = detail.clamp(-MAX_DETAIL, MAX_DETAIL) - unfold_patches(patches - seen)
            frames = rearrange(detail * there, "n (k c) h w -> n k c h w", k=TEMPORAL_FACTOR)
            is_known = there[:, None].expand_as(frames[:, :, :1])
            detail = torch.cat([frames, is_known], 2).flatten(1, 2)
        return _Features(self.to_frames(x), patches, detail)

    def _seen_patches(self, latent_NCHW: Tensor) -> Tensor:
        """Patches `(N, 768, h, w)` of all that the encoder sees, and nothing else, of frames with these latents."""
        return F.conv2d(
            latent_NCHW, self.encoder_inverse.to(latent_NCHW.dtype), self.encoder_origin.to(latent_NCHW.dtype)
        )

    def _decode(self, found: _Features, numbers: tuple[int, ...]) -> Tensor:
        """The frames of these numbers in the chunk, folded, `(N, 3k, H, W)`."""
        k = len(numbers)
        drawn = self.frame(rearrange(found.features, "n (k c) h w -> (n k) c h w", k=k))
        colours = drawn[:, :3]
        if self.sees_reference:
            colours = colours - self._encoded_part(colours, numbers)
        if found.detail is not None:
            detail = rearrange(found.detail, "n (k c) h w -> (n k) c h w", k=k)
            # Instead of what is drawn, not besides: at a place that stands still a sum would grow from chunk to chunk.
            mask = MAX_SHARE * drawn[:, 3:].sigmoid() * detail[:, 3:]
            colours = colours + mask * (detail[:, :3] - colours)
        patches = rearrange(unfold_patches(found.patches), "n (k c) h w -> (n k) c h w", k=k)
        frames = colours + patches
        if self.deblocking is not None:
            frames = self.deblocking(frames)
        return rearrange(frames, "(n k) c h w -> n (k c) h w", k=k)

    def _encoded_part(self, frames_NCHW: Tensor, numbers: tuple[int, ...]) -> Tensor:
        """The part of frames `(n k, 3, H, W)` that the encoder sees, whose removal changes no latent."""
        k = len(numbers)
        bases = self.encoder_bases[list(numbers)].to(frames_NCHW.dtype).flatten(0, 1)[..., None, None]
        folded = rearrange(frames_NCHW, "(n k) c h w -> n (k c) h w", k=k)
        seen = F.conv2d(F.pixel_unshuffle(folded, SPATIAL_FACTOR), bases, groups=k)
        part = F.pixel_shuffle(F.conv_transpose2d(seen, bases, groups=k), SPATIAL_FACTOR)
        return rearrange(part, "n (k c) h w -> (n k) c h w", k=k)


def consistent_weights(encoder: tuple[Tensor, Tensor], patch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Weights of a streaming decoder, by name, that make it consistent: linear path, and what it knows of the encoder.

    `encoder` and `patch` are weights and biases of the linear encoder and of the linear path so far, which is changed
    by as little as makes it a right inverse of the encoder.
    """
    (into, into_bias), (out, out_bias) = ((w.flatten(1).double(), b.double()) for w, b in (encoder, patch))
    inverse = out @ torch.linalg.inv(into @ out)
    bias = out_bias - inverse @ (into @ out_bias + into_bias)
    weights = {"patch.weight": inverse[..., None, None], "patch.bias": bias}
    return {name: weight.to(patch[0]) for name, weight in weights.items()} | encoder_buffers(*encoder)


def encoder_buffers(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The buffers of a `StreamingDecoder`, by name, for a linear encoder of this weight and bias."""
    into = weight.flatten(1).double()
    of_frames = into.unflatten(1, (TEMPORAL_FACTOR, -1)).permute(1, 2, 0)
    inverse = torch.linalg.pinv(into)
    buffers = {
        "encoder_bases": torch.linalg.qr(of_frames).Q.mT.contiguous(),
        "encoder_inverse": inverse[..., None, None].contiguous(),
        "encoder_origin": -inverse @ bias.double(),
    }
    return {name: buffer.to(weight) for name, buffer in buffers.items()}


def stillness(latent_NCHW: Tensor, memory_NCHW: Tensor) -> Tensor:
    """Stillness of each pixel, `(N, 1, H, W)`: 1 where the latent equals the one before it, 0 where it differs.

    A latent encodes the motion of its four frames. Still footage repeats latents without motion; a still world repeats
    the latent that it came to rest on, whose motion would play as a loop.
    """
    change_N1HW = (latent_NCHW - memory_NCHW).square().mean(1, keepdim=True)
    change_N1HW = F.avg_pool2d(change_N1HW, 3, 1, 1, count_include_pad=False)
    hold = torch.exp(-((change_N1HW / HOLD_CHANGE**2) ** 2))
    return F.interpolate(hold, scale_factor=SPATIAL_FACTOR, mode="bilinear")


def hold_still(folded_NCHW: Tensor, last_NCHW: Tensor, hold: Tensor) -> Tensor:
    """Folded frames, blended with the last frame of their chunk where the picture is still."""
    # In mixed precision frames may come in bfloat16, where stillness is measured in float32.
    hold = hold.to(folded_NCHW.dtype)
    return torch.lerp(folded_NCHW, last_NCHW.tile(folded_NCHW.shape[1] // 3, 1, 1), hold)


def _some_frames(folded_NCHW: Tensor, numbers: tuple[int, ...]) -> Tensor:
    """Some of four folded frames."""
    frames = folded_NCHW.chunk(TEMPORAL_FACTOR, 1)
    return torch.cat([frames[number] for number in numbers], 1)
