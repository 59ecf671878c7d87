"""InstructNet: keys, instructions and video prompts steer a frozen foundation (GameGen-X, §3.3).

One block after each layer of the foundation, alternately spatial and temporal, added through zero-initialised
projections, so an untrained InstructNet changes nothing. Operation fusion: the four frames of keys under one
latent scale and shift its tokens (FiLM). Instruction fusion: cross-attention to the instruction's text. Video
prompts (VAE latents of canny, motion or pose pictures) are added where InstructNet starts. Each control is
optional for each row of the batch at any time.

Shape suffixes as in `msdit.py`; O is the size of one frame's operation vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import OPERATION_SIZE
from gamegen.models.attention import CrossAttention, TemporalAttention
from gamegen.models.msdit import (
    PATCH,
    ControlBranch,
    ConvMLP,
    MSDiT,
    MSDiTConfig,
    SpatialSelfAttention,
    modulate,
)
from gamegen.models.network_inputs import Text


@dataclass(frozen=True)
class InstructNetConfig:
    """`mlp_ratio` of its blocks and the width of the operation embedding."""

    mlp_ratio: int = 2
    operation_width: int = 256

    @classmethod
    def tiny(cls) -> InstructNetConfig:
        """For tests."""
        return cls(operation_width=16)


@dataclass(frozen=True)
class ControlInputs:
    """A batch of controls.

    `operations` `(B, T, 4, O)`; `has_operations` `(B, T)` is false where no operation is given (which is not the
    same as no key held); `instruction` texts; `video` `(B, T, C, H, W)` latents of a video prompt or None, which
    counts for the rows where `has_video` `(B,)` is true.
    """

    operations: Tensor
    has_operations: Tensor
    instruction: Text
    instruction_active: Tensor
    video: Tensor | None = None
    has_video: Tensor | None = None

    def to(self, device: torch.device) -> ControlInputs:
        """A copy on another device."""
        return ControlInputs(
            self.operations.to(device),
            self.has_operations.to(device),
            self.instruction.to(device),
            self.instruction_active.to(device),
            None if self.video is None else self.video.to(device),
            None if self.has_video is None else self.has_video.to(device),
        )

    def dropped(self) -> ControlInputs:
        """The batch without instructions and operations, for the unconditional pass of guidance."""
        return ControlInputs(
            self.operations,
            torch.zeros_like(self.has_operations),
            self.instruction,
            torch.zeros_like(self.instruction_active),
        )

    def rows(self, index: Tensor) -> ControlInputs:
        """The batch rows at `index`."""
        return ControlInputs(
            self.operations[index],
            self.has_operations[index],
            self.instruction.rows(index),
            self.instruction_active[index],
            None if self.video is None else self.video[index],
            None if self.has_video is None else self.has_video[index],
        )


class InstructBlock(nn.Module):
    """Self-attention in space or time and an MLP under FiLM, cross-attention to the instruction."""

    def __init__(self, foundation: MSDiTConfig, config: InstructNetConfig, temporal: bool) -> None:
        super().__init__()
        width, heads = foundation.width, foundation.num_heads
        self.temporal = temporal
        self.attention: nn.Module = (
            TemporalAttention(width, heads, foundation.window, foundation.anchors)
            if temporal
            else SpatialSelfAttention(foundation)
        )
        self.instruction = CrossAttention(width, heads)
        self.mlp = ConvMLP(width, config.mlp_ratio)
        self.film = nn.Linear(config.operation_width, 4 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.instruction.out.weight)
        nn.init.zeros_(self.instruction.out.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x_BTSD: Tensor, operation_BTO: Tensor, text: Text, active_BT: Tensor, rows: int, cache
    ) -> tuple[Tensor, Tensor]:
        """The branch's tokens, and the change that they add to the foundation's, both `(B, T, S, D)`."""
        scale_1, shift_1, scale_2, shift_2 = self.film(operation_BTO).unsqueeze(2).chunk(4, -1)
        x = x_BTSD + self.attention(modulate(x_BTSD, scale_1, shift_1), cache if self.temporal else rows)
        if not text.is_empty:
            h = F.layer_norm(x, x.shape[-1:])
            change = self.instruction(h.flatten(1, 2), text.tokens, text.mask, text.cache).view_as(x)
            x = x + change * active_BT[:, :, None, None]
        x = x + self.mlp(modulate(x, scale_2, shift_2), rows)
        return x, self.out(x)


class EmbeddedControls(NamedTuple):
    """Control inputs embedded for the blocks: operations `(B, T, O)`, instruction tokens `(B, L, D)`, video tokens
    `(B, T, S, D)` or None."""

    operations: Tensor
    instruction: Tensor
    video: Tensor | None


class InstructNet(nn.Module):
    """Control network for a foundation of the given config; the foundation stays frozen."""

    def __init__(self, config: InstructNetConfig, foundation: MSDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, operation_width = foundation.width, config.operation_width
        self.operation_in = nn.Sequential(
            nn.Linear(FRAMES_PER_CHUNK * OPERATION_SIZE, operation_width),
            nn.SiLU(),
            nn.Linear(operation_width, operation_width),
        )
        self.no_operation = nn.Parameter(torch.zeros(operation_width))
        self.pooled_in = nn.Sequential(
            nn.Linear(foundation.text_width, operation_width),
            nn.SiLU(),
            nn.Linear(operation_width, operation_width),
        )
        self.text_in = nn.Sequential(
            nn.LayerNorm(foundation.text_width), nn.Linear(foundation.text_width, width)
        )
        self.video_in = nn.Linear(PATCH**2 * foundation.latent_channels, width)
        self.blocks = nn.ModuleList(
            [InstructBlock(foundation, config, bool(i % 2)) for i in range(foundation.num_layers)]
        )
        nn.init.zeros_(self.video_in.weight)
        nn.init.zeros_(self.video_in.bias)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the layers."""
        return self.no_operation.dtype

    def bind(self, controls: ControlInputs) -> BoundControls:
        """The control branch of one batch, to pass to `MSDiT.forward`."""
        return BoundControls(self, controls)

    def forward(self, controls: ControlInputs) -> EmbeddedControls:
        """Embeds a batch of control inputs; the blocks run later, layer by layer with the foundation's."""
        video = None
        if controls.video is not None and controls.has_video is not None:
            patches = rearrange(controls.video, "b t c (y p) (x q) -> b t (y x) (c p q)", p=PATCH, q=PATCH)
            video = self.video_in(patches.to(self.dtype)) * controls.has_video[:, None, None, None]
        instruction = controls.instruction
        tokens = instruction.cache.get(self, lambda: self.text_in(instruction.tokens.to(self.dtype)))
        return EmbeddedControls(self.embed_operations(controls), tokens, video)

    def embed_operations(self, controls: ControlInputs) -> Tensor:
        """FiLM condition `(B, T, operation_width)` of keys and the pooled instruction."""
        # Three times the embedding: with less, keys are ignored for most of a short training.
        operations = rearrange(controls.operations, "b t k o -> b t (k o)").to(self.dtype)
        embedded = 3 * self.operation_in(operations)
        embedded = torch.where(controls.has_operations[..., None], embedded, self.no_operation)
        pooled = self.pooled_in(controls.instruction.pooled.to(self.dtype))[:, None]
        return F.silu(embedded + 3 * pooled * controls.instruction_active[..., None].to(self.dtype))


def temporal_attentions(foundation: MSDiT, instructnet: InstructNet) -> list[TemporalAttention]:
    """Temporal attentions of both networks in the order of the forward pass."""
    found: list[Any] = []
    for i, block in enumerate(foundation.blocks):
        if block.temporal:
            control = instructnet.blocks[i // 2]
            found += [block.attention, *([control.attention] if control.temporal else [])]
    return found


class BoundControls(ControlBranch):
    """InstructNet with the control inputs of one batch, run beside the foundation."""

    def __init__(self, net: InstructNet, controls: ControlInputs) -> None:
        self.net = net
        self.active_BT = controls.instruction_active.to(net.dtype)
        self.embedded = net(controls)
        instruction = controls.instruction
        self.text = Text(self.embedded.instruction, instruction.mask, instruction.pooled, instruction.cache)

    def start(self, x_BTSD: Tensor, rows: int) -> None:
        self.rows = rows
        self.state = x_BTSD if self.embedded.video is None else x_BTSD + self.embedded.video

    def after_layer(self, layer: int, x_BTSD: Tensor, caches) -> Tensor:
        block = self.net.blocks[layer]
        cache = next(caches) if caches and block.temporal else None
        self.state, change = block(
            self.state + x_BTSD, self.embedded.operations, self.text, self.active_BT, self.rows, cache
        )
        return change
