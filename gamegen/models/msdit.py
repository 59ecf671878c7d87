"""MSDiT: a masked spatial-temporal diffusion transformer (GameGen-X, §3.2) with a noise level per latent frame.

A layer is a spatial block then a temporal block. Every latent frame carries its own noise level (diffusion
forcing), and the latent before it enters by channel concatenation, so each token sees where it was. Masking
that latent and raising the noise turns the same network from continuation into text-to-video.

Shape suffixes: B batch, T latent frames, C channels, H and W latent height and width, S tokens of a latent
frame, D width, L text tokens, M modulation parts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gamegen.models.attention import CrossAttention, SelfAttention, TemporalAttention
from gamegen.models.kv_cache import KVCache
from gamegen.models.network_inputs import DEFAULT_FORMAT, Previous, Text, VideoFormat
from gamegen.models.refiner import LatentRefiner
from gamegen.models.rotary import rotate, rotation_2d
from gamegen.models.sparse_attention import SparseAttentionConfig, SparseLinearAttention

PATCH = 2


@dataclass(frozen=True)
class MSDiTConfig:
    """Sizes of the transformer; `window` and `anchors` are latent frames of temporal attention.

    With `sparse_attention`, attention inside large frames is sparse and linear instead of dense. `rotary_grid` are the
    rows and columns of tokens that rotary positions inside a frame count, however many there are (Chen et al. 2023,
    "Extending Context Window of Large Language Models via Positional Interpolation"): pictures of another size than
    those trained on keep the distances that the network knows. None counts the tokens themselves.

    With a `refiner_width`, convolutions of so many channels refine the layers' output, see `LatentRefiner`; 0 is none.

    With `motion_compensation` the network is given the motion-compensated latent of each frame in place of the latent
    before it, with its confidence. The model then needs a motion network.
    """

    width: int = 256
    num_layers: int = 4
    num_heads: int = 4
    mlp_ratio: int = 3
    latent_channels: int = 16
    text_width: int = 384
    window: int = 8
    anchors: int = 0
    sparse_attention: SparseAttentionConfig | None = None
    rotary_grid: tuple[int, int] | None = None
    motion_compensation: bool = False
    refiner_width: int = 0
    refiner_blocks: int = 4

    def __post_init__(self) -> None:
        if self.width % (4 * self.num_heads):
            raise ValueError(
                f"width = {self.width} with num_heads = {self.num_heads}: a head must have a multiple of 4 channels "
                "for its rotary positions, so make width a multiple of 4 * num_heads"
            )

    @classmethod
    def tiny(cls) -> MSDiTConfig:
        """For tests: two layers of width 32."""
        return cls(
            width=32,
            num_layers=2,
            num_heads=2,
            mlp_ratio=2,
            latent_channels=4,
            window=3,
            refiner_width=8,
            refiner_blocks=1,
        )


def sinusoid(value: Tensor, width: int, scale: float = 1000.0) -> Tensor:
    """Sinusoidal features `(..., width)` of values around 0 to 1."""
    frequency = torch.exp(-math.log(1e4) * torch.arange(width // 2, device=value.device) / (width // 2))
    angle = value[..., None] * scale * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """AdaLN: parameter-free LayerNorm, then `(1 + scale) * x + shift`."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def velocity_of_output(output_BTCHW: Tensor, x_BTCHW: Tensor, level_BT: Tensor) -> Tensor:
    """Velocity from a network output of unit variance, `(t * x_0 - (1 - t) * noise) / sqrt(t^2 + (1 - t)^2)`.

    The preconditioning of EDM (Karras et al. 2022, table 1) in rectified-flow terms. At high noise the network
    then draws the picture itself and need not carry the noise through all its layers, which a small one fails to.
    """
    t = level_BT[:, :, None, None, None]
    power = t**2 + (1 - t) ** 2
    return ((2 * t - 1) * x_BTCHW - power.sqrt() * output_BTCHW) / power


def keep_previous(
    velocity_BTCHW: Tensor, keep_BTHW: Tensor, x_BTCHW: Tensor, level_BT: Tensor, previous: Previous
) -> Tensor:
    """The velocity that points to a blend of its own x_0 and the latent before, `keep_BTHW` (0 to 1) of it.

    Compositing masks (Finn et al. 2016, "Unsupervised Learning for Physical Interaction", section 3.2): to stand
    still exactly is hard to learn as a sum of residual layers and easy as one number a place.
    """
    there = (previous.level >= 0)[:, :, None, None]
    keep = (keep_BTHW * there)[:, :, None]
    level = level_BT.clamp_min(1e-3)[:, :, None, None, None]
    return (1 - keep) * velocity_BTCHW + keep * (x_BTCHW - previous.latent) / level


class ConvMLP(nn.Module):
    """MLP with a depthwise 3x3 between its layers: how motion passes between neighbouring tokens."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, ratio * width)
        self.depthwise = nn.Conv2d(ratio * width, ratio * width, 3, padding=1, groups=ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x_BTSD: Tensor, rows: int) -> Tensor:
        B, _T, _S, _ = x_BTSD.shape
        h = self.up(x_BTSD)
        grid = rearrange(h, "b t (y x) d -> (b t) d y x", y=rows)
        h = h + rearrange(self.depthwise(grid), "(b t) d y x -> b t (y x) d", b=B)
        return self.down(F.gelu(h, approximate="tanh"))


class SpatialSelfAttention(SelfAttention):
    """Attention among the tokens of one latent frame, with 2-D rotary positions."""

    def __init__(self, config: MSDiTConfig) -> None:
        super().__init__(config.width, config.num_heads)
        head_width = config.width // config.num_heads
        sparse = config.sparse_attention
        self.sparse = SparseLinearAttention(config.num_heads, head_width, sparse) if sparse else None
        self.rotary_grid = config.rotary_grid

    def forward(self, x_BTSD: Tensor, rows: int) -> Tensor:
        B, T, S, D = x_BTSD.shape
        q, k, v = self.project(x_BTSD.flatten(0, 1))
        rotation = rotation_2d(rows, S // rows, D // self.num_heads, x_BTSD.device, self.rotary_grid)
        q, k = rotate(q, rotation), rotate(k, rotation)
        if self.sparse is not None and self.sparse.config.min_tokens <= S:
            x = self.project_out(self.sparse(q, k, v))
        else:
            x = self.attend(q, k, v)
        return x.view(B, T, S, D)


class Block(nn.Module):
    """Self-attention in space or in time, cross-attention to the text, MLP; AdaLN-single with a table."""

    def __init__(self, config: MSDiTConfig, temporal: bool) -> None:
        super().__init__()
        width, heads = config.width, config.num_heads
        self.temporal = temporal
        self.attention: nn.Module = (
            TemporalAttention(width, heads, config.window, config.anchors)
            if temporal
            else SpatialSelfAttention(config)
        )
        self.cross = CrossAttention(width, heads)
        self.mlp = ConvMLP(width, config.mlp_ratio)
        self.table_MD = nn.Parameter(torch.randn(6, width) * 0.02)
        nn.init.zeros_(self.cross.out.weight)
        nn.init.zeros_(self.cross.out.bias)

    def forward(
        self,
        x_BTSD: Tensor,
        modulation_BTMD: Tensor,
        text: Text,
        rows: int,
        cache: KVCache | None,
    ) -> Tensor:
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = (modulation_BTMD + self.table_MD).chunk(6, 2)
        h = modulate(x_BTSD, scale_1, shift_1)
        x = x_BTSD + gate_1 * self.attention(h, cache if self.temporal else rows)
        h = F.layer_norm(x, x.shape[-1:])
        x = x + self.cross(h.flatten(1, 2), text.tokens, text.mask, text.cache).view_as(x)
        return x + gate_2 * self.mlp(modulate(x, scale_2, shift_2), rows)


class MSDiT(nn.Module):
    """Velocity of noisy latents under a text, each latent frame at its own noise level."""

    def __init__(self, config: MSDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, z = config.width, config.latent_channels
        # Noisy latent, latent before it, and maps that say whether that one is there, how noisy it is, and how far to
        # trust it.
        num_maps = 3 if config.motion_compensation else 2
        self.patch_in = nn.Linear(PATCH**2 * (2 * z + num_maps), width)
        self.place_in = nn.Linear(32, width)
        self.level_in = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width))
        self.format_in = nn.Sequential(nn.Linear(96, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled_in = nn.Sequential(
            nn.Linear(config.text_width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.text_in = nn.Sequential(nn.LayerNorm(config.text_width), nn.Linear(config.text_width, width))
        self.modulation = nn.ModuleList([nn.Linear(width, 6 * width) for _ in range(2)])
        self.blocks = nn.ModuleList([Block(config, bool(i % 2)) for i in range(2 * config.num_layers)])
        self.previous_level_in = nn.Linear(128, width)
        self.final_modulation = nn.Linear(width, 2 * width)
        # How much of the noisy latent and of the one before it goes straight to the output, channel by channel:
        # the linear part of denoising, which the layers then need not learn.
        self.skip = nn.Linear(width, 2 * z)
        self.patch_out = nn.Linear(width, PATCH**2 * z)
        self.keep_out = nn.Linear(width, PATCH**2)
        self.refiner = (
            LatentRefiner(
                width,
                config.refiner_width,
                num_blocks=config.refiner_blocks,
                num_planes=2 * z + num_maps,
                latent_channels=z,
                patch=PATCH,
            )
            if config.refiner_width
            else None
        )
        for layer in (
            *self.modulation,
            self.previous_level_in,
            self.final_modulation,
            self.skip,
            self.patch_out,
            self.keep_out,
        ):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # Almost nothing is kept at first.
        nn.init.constant_(self.keep_out.bias, -1.0)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the layers; latents, noise levels and the velocity are float32 in any case."""
        return self.patch_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the layers."""
        return self.patch_in.weight.device

    @staticmethod
    def planes(x_BTCHW: Tensor, previous: Previous) -> Tensor:
        """Noisy latents beside the latents before them and maps that tell about those, `(B, T, planes, H, W)`."""
        B, T, _, H, W = x_BTCHW.shape
        level = previous.level[:, :, None, None, None].expand(B, T, 1, H, W).to(x_BTCHW.dtype)
        masked = (level < 0).to(x_BTCHW.dtype)
        maps = [x_BTCHW, previous.noisy * (1 - masked), masked, level.clamp_min(0)]
        if previous.confidence is not None:
            maps.append(previous.confidence * (1 - masked))
        return torch.cat(maps, 2)

    def embed(self, planes_BTCHW: Tensor) -> Tensor:
        """Tokens `(B, T, S, D)` of `planes`."""
        H, W = planes_BTCHW.shape[-2:]
        patches = rearrange(planes_BTCHW, "b t c (y p) (x q) -> b t (y x) (c p q)", p=PATCH, q=PATCH)
        places = self._places(H // PATCH, W // PATCH, planes_BTCHW)
        return self.patch_in(patches.to(self.dtype)) + self.place_in(places.to(self.dtype))

    @staticmethod
    def _places(rows: int, columns: int, like: Tensor) -> Tensor:
        """Fourier features `(S, 32)` of each token's place, relative to the picture's size."""
        y, x = torch.meshgrid(
            (torch.arange(rows, device=like.device) + 0.5) / rows,
            (torch.arange(columns, device=like.device) + 0.5) / columns,
            indexing="ij",
        )
        frequency = math.pi * 2.0 ** torch.arange(-1, 7, device=like.device).div(2)
        angle = torch.stack([y.flatten(), x.flatten()], 1)[..., None] * frequency
        return torch.cat([angle.sin(), angle.cos()], -1).flatten(1).to(like.dtype)

    def condition(
        self, level_BT: Tensor, previous_level_BT: Tensor, text: Text, video_format: VideoFormat
    ) -> Tensor:
        """The AdaLN condition `(B, T, D)` of both noise levels, clip format and pooled text."""
        facts = torch.tensor(
            [video_format.fps / 60, video_format.num_frames / 128, video_format.aspect_ratio / 4],
            device=level_BT.device,
        )
        clip = self.format_in(sinusoid(facts, 32, 100.0).flatten().to(self.dtype))
        levels = self.level_in(sinusoid(level_BT, 128).to(self.dtype)) + self.previous_level_in(
            sinusoid(previous_level_BT, 128).to(self.dtype)
        )
        return levels + (clip + self.pooled_in(text.pooled.to(self.dtype)))[:, None]

    def forward(
        self,
        x_BTCHW: Tensor,
        level_BT: Tensor,
        previous: Previous,
        text: Text,
        video_format: VideoFormat = DEFAULT_FORMAT,
        control: ControlBranch | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Tensor:
        """Velocity `(B, T, C, H, W)`.

        With `caches`, one for each temporal attention of both networks in the order of the forward pass, T is 1 and
        temporal attention reads the cached frames. `control`, if given, is called
        after each layer with the tokens and returns what to add (InstructNet).
        """
        rows = x_BTCHW.shape[-2] // PATCH
        planes = self.planes(x_BTCHW, previous)
        x = self.embed(planes)
        condition = F.silu(self.condition(level_BT, previous.level, text, video_format))
        spatial, temporal = (rearrange(m(condition), "b t (m d) -> b t m d", m=6) for m in self.modulation)
        tokens = text.cache.get(self, lambda: self.text_in(text.tokens.to(self.dtype)))
        read = Text(tokens, text.mask, text.pooled, text.cache)
        remaining = iter(caches) if caches else None
        if control is not None:
            control.start(x, rows)
        for i, block in enumerate(self.blocks):
            cache = next(remaining) if remaining and block.temporal else None
            x = block(x, temporal if block.temporal else spatial, read, rows, cache)
            if control is not None and block.temporal:
                x = x + control.after_layer(i // 2, x, remaining)
        scale, shift = self.final_modulation(condition).unsqueeze(2).chunk(2, -1)
        x = modulate(x, scale, shift)
        output = rearrange(
            self.patch_out(x), "b t (y x) (c p q) -> b t c (y p) (x q)", y=rows, p=PATCH, q=PATCH
        )
        of_noisy, of_previous = self.skip(condition).float()[..., None, None].chunk(2, 2)
        visible = (previous.level >= 0)[:, :, None, None, None]
        keep = rearrange(self.keep_out(x), "b t (y x) (p q) -> b t (y p) (x q)", y=rows, p=PATCH, q=PATCH)
        if self.refiner is not None:
            of_output, of_keep = self.refiner(x, planes, condition)
            output, keep = output + of_output, keep + of_keep
        output = output.float() + of_noisy * x_BTCHW + of_previous * previous.noisy * visible
        velocity = velocity_of_output(output, x_BTCHW, level_BT)
        return keep_previous(velocity, (4 * keep.float()).sigmoid(), x_BTCHW, level_BT, previous)


class ControlBranch(ABC):
    """Control branch that changes the tokens after each layer; `InstructNet.bind` makes one for a batch."""

    @abstractmethod
    def start(self, x_BTSD: Tensor, rows: int) -> None:
        """Receives the embedded tokens, once before the first layer."""

    @abstractmethod
    def after_layer(self, layer: int, x_BTSD: Tensor, caches) -> Tensor:
        """The change of the tokens after a layer; `caches` yields the KV caches of this branch."""
