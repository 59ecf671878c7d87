"""Attention parts: rotary positions, QK-normalised self-attention, text cross-attention.

Shape suffixes: B batch, T latent frames, S tokens of a latent frame, L tokens of text, D width, K heads,
E head width, N any merged batch, P positions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.distributed.nn.functional import all_to_all_single

if TYPE_CHECKING:
    from gamegen.models.ring_cache import RingCache


def rotary_angles(position_P: Tensor, width: int, base: float = 1000.0) -> Tensor:
    """Rotation angles `(P, width / 2)` of positions (RoFormer, §3.2)."""
    frequency = base ** (-torch.arange(0, width, 2, device=position_P.device) / width)
    # Positions that are integers are small; large ones come in float64, and so do their angles.
    position = position_P if position_P.is_floating_point() else position_P.float()
    return position[:, None] * frequency


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines `(..., P, E / 2)` of rotation angles."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def by(cls, angles: Tensor) -> Rotation:
        """The rotation by `angles`."""
        return cls(angles.cos(), angles.sin())


# Asked for by every block of every pass. Made outside of inference mode, because training uses them too.
@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def rotation_2d(
    rows: int, columns: int, width: int, device: torch.device, grid: tuple[int, int] | None = None
) -> Rotation:
    """Rotations of `rows * columns` tokens: the first half of the frequencies turns with the row, the rest with
    the column. They stand where the tokens of a `grid` (rows, columns) would that covers the same picture."""
    row, column = torch.meshgrid(
        *(
            (torch.arange(count, device=device) + 0.5) * (over / count) - 0.5
            for count, over in zip((rows, columns), grid or (rows, columns), strict=True)
        ),
        indexing="ij",
    )
    half = width // 2
    return Rotation.by(
        torch.cat(
            [rotary_angles(row.flatten(), half, 100.0), rotary_angles(column.flatten(), half, 100.0)], 1
        )
    )


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns the pairs (first half, second half) of the last axis of `x` `(..., P, E)`."""
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    if torch.compiler.is_exporting():
        return _rotate_in_one(x, cos, sin)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _rotate_in_one(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` as the one operation that ONNX has for it; `x` is `(N, K, P, E)` or, along time, `(B, S, K, 1, E)`."""
    if x.ndim == 5:
        return _rotate_in_one(x.flatten(1, 2), cos[:, 0], sin[:, 0]).unflatten(1, x.shape[1:3])
    cos, sin = (part.expand(x.shape[0], 1, x.shape[2], -1)[:, 0] for part in (cos, sin))
    return torch.onnx.ops.rotary_embedding(x, cos, sin)


class SelfAttention(nn.Module):
    """Multi-head self-attention with RMS-normalised queries and keys."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = nn.RMSNorm(width // num_heads)
        self.key_norm = nn.RMSNorm(width // num_heads)
        self.out = nn.Linear(width, width)

    def project(self, x_NPD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised, unrotated queries and keys, and values, each `(N, K, P, E)`."""
        q, k, v = (
            rearrange(part, "n p (k e) -> n k p e", k=self.num_heads) for part in self.qkv(x_NPD).chunk(3, -1)
        )
        return self.query_norm(q), self.key_norm(k), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax attention and the output projection, to `(N, P, D)`; `mask` is true where attended."""
        return self.joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))

    def joined(self, read_NKPE: Tensor) -> Tensor:
        """The output projection of what all heads read, `(N, P, D)`."""
        return self.out(rearrange(read_NKPE, "n k p e -> n p (k e)"))


class Memory:
    """What networks have computed of one text alone: in inference it is computed once for all chunks and steps.

    Training computes it every time, because gradients flow through it.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}

    @property
    def is_kept(self) -> bool:
        """Whether anything is kept."""
        return torch.is_inference_mode_enabled()

    def get(self, owner: Any, compute: Callable[[], Any]) -> Any:
        """The result of `compute` for its owner."""
        if not self.is_kept:
            return compute()
        if owner not in self._kept:
            self._kept[owner] = compute()
        return self._kept[owner]


class CrossAttention(nn.Module):
    """Attention from video tokens to text tokens, with a learned token that is always there.

    The extra token is what remains when the text is dropped (classifier-free guidance).
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.null_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.query_norm = nn.RMSNorm(width // num_heads)
        self.key_norm = nn.RMSNorm(width // num_heads)
        self.out = nn.Linear(width, width)

    def forward(self, x_BPD: Tensor, text_BLD: Tensor, text_mask_BL: Tensor, memory: Memory) -> Tensor:
        k, v, mask = memory.get(self, lambda: self.read(text_BLD, text_mask_BL))
        q = self.query_norm(rearrange(self.query(x_BPD), "b p (k e) -> b k p e", k=self.num_heads))
        # A row for each query, though they are the same: ONNX's attention repeats none.
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(-1, -1, q.shape[2], -1))
        return self.out(rearrange(x, "b k p e -> b p (k e)"))

    def read(self, text_BLD: Tensor, text_mask_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values `(B, K, L + 1, E)` of a text and the learned token, and their mask `(B, 1, 1, L + 1)`."""
        text = torch.cat([self.null_token.expand(len(text_BLD), -1, -1).to(text_BLD.dtype), text_BLD], 1)
        mask = F.pad(text_mask_BL, (1, 0), value=True)[:, None, None, :]
        k, v = rearrange(self.key_value(text), "b l (two k e) -> two b k l e", two=2, k=self.num_heads)
        return self.key_norm(k), v, mask


class TemporalAttention(SelfAttention):
    """Attention along time at each place of the picture.

    Causal within a window of `window` latent frames (the query's own included), plus the first `anchors`
    latent frames of the stream. Positions are places in the window, so no distance grows with play.

    With a `sequence_group`, each of its processes holds an equal stretch of the time axis: for this attention they
    exchange stretches of time for shares of the tokens, and back (Jacobs et al. 2023, "DeepSpeed Ulysses").
    """

    def __init__(self, width: int, num_heads: int, window: int, anchors: int = 0) -> None:
        super().__init__(width, num_heads)
        self.window = window
        self.anchors = anchors
        self.sequence_group: dist.ProcessGroup | None = None

    def forward(self, x_BTSD: Tensor, cache: RingCache | None = None) -> Tensor:
        """Whole sequences without `cache`; with it, one new latent frame (T = 1) against the cached ones."""
        if self.sequence_group is None:
            return self._all_times(x_BTSD, cache)
        x = swap_shards(x_BTSD, gathered=1, split=2, group=self.sequence_group)
        return swap_shards(self._all_times(x, None), gathered=2, split=1, group=self.sequence_group)

    def _all_times(self, x_BTSD: Tensor, cache: RingCache | None) -> Tensor:
        B = x_BTSD.shape[0]
        q, k, v = self.project(rearrange(x_BTSD, "b t s d -> (b s) t d"))
        x = self._whole(q, k, v) if cache is None else self._step(q, k, v, cache, B)
        return rearrange(x, "(b s) t d -> b t s d", b=B)

    def _whole(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        T, E = q.shape[-2:]
        place = torch.arange(T, device=q.device)
        rotation = Rotation.by(rotary_angles(place, E))
        if self.window + self.anchors >= T:
            x = F.scaled_dot_product_attention(rotate(q, rotation), rotate(k, rotation), v, is_causal=True)
        else:
            x = self._windowed(q, k, v, rotation)
        return self.out(rearrange(x, "n k t e -> n t (k e)"))

    def _windowed(self, q: Tensor, k: Tensor, v: Tensor, rotation: Rotation) -> Tensor:
        """Scores in two parts, because a query stands at another distance from anchors than from its window."""
        T, E = q.shape[-2:]
        i, j = torch.arange(T, device=q.device)[:, None], torch.arange(T, device=q.device)[None, :]
        in_window = (j <= i) & (j > i - self.window)
        is_anchor = (j < self.anchors) & ~in_window & (j <= i)
        query_place = torch.arange(T, device=q.device).clamp_max(self.anchors + self.window - 1)
        keys = rotate(k, rotation).transpose(-1, -2)
        near = rotate(q, rotation) @ keys
        far = rotate(q, Rotation.by(rotary_angles(query_place, E))) @ keys
        score = torch.where(in_window, near, far) * E**-0.5
        return score.masked_fill(~(in_window | is_anchor), float("-inf")).softmax(-1) @ v

    def _step(self, q: Tensor, k: Tensor, v: Tensor, cache: RingCache, B: int) -> Tensor:
        """One new frame. What is cached and the frame itself are read apart, so that they need not be joined."""
        past, E = cache.past(), q.shape[-1]
        q, k, v = (rearrange(x, "(b s) k 1 e -> b s k 1 e", b=B) for x in (q, k, v))
        near, k = rotate(q, past.reach.rotation), rotate(k, past.reach.rotation)
        cache.offer(k, v)
        score = near @ past.keys
        if self.anchors:
            far = rotate(q, past.reach.far) @ past.keys[..., : self.anchors]
            score = torch.cat([far, score[..., self.anchors :]], -1)
        own = (near * k).sum(-1, keepdim=True)
        score = torch.cat([score.masked_fill(~past.reach.mask, float("-inf")), own], -1) * E**-0.5
        weight = score.float().softmax(-1).to(v.dtype)
        x = weight[..., :-1] @ past.values + weight[..., -1:] * v
        return self.out(rearrange(x, "b s k 1 e -> (b s) 1 (k e)"))


def swap_shards(x: Tensor, gathered: int, split: int, group: dist.ProcessGroup) -> Tensor:
    """Turns a tensor of which each process holds a stretch of axis `gathered` into one of which it holds a stretch
    of axis `split`, whose length the number of processes must divide."""
    parts = torch.stack(x.chunk(dist.get_world_size(group), split)).contiguous()
    received = all_to_all_single(torch.empty_like(parts), parts, group=group)
    return torch.cat(list(received), gathered)
