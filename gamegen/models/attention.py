"""Attention parts: rotary positions, QK-normalised self-attention, text cross-attention, the ring KV cache.

Shape suffixes: B batch, T latent frames, S tokens of a latent frame, L tokens of text, D width, K heads,
E head width, N any merged batch, P positions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.distributed.nn.functional import all_to_all_single


def rotary_angles(position_P: Tensor, width: int, base: float = 1000.0) -> Tensor:
    """Rotation angles `(P, width / 2)` of positions (RoFormer, §3.2)."""
    frequency = base ** (-torch.arange(0, width, 2, device=position_P.device) / width)
    return position_P.float()[:, None] * frequency


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines `(..., P, E / 2)` of rotation angles."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def by(cls, angles: Tensor) -> Rotation:
        """The rotation by `angles`."""
        return cls(angles.cos(), angles.sin())

    def last(self) -> Rotation:
        """That of the last position alone."""
        return Rotation(self.cos[..., -1:, :], self.sin[..., -1:, :])


# Asked for by every block of every pass. Made outside of inference mode, because training uses them too.
@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def rotation_2d(rows: int, columns: int, width: int, device: torch.device) -> Rotation:
    """Rotations of `rows * columns` tokens: the first half of the frequencies turns with the row, the rest with
    the column."""
    row, column = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
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
        q, k, v = rearrange(self.qkv(x_NPD), "n p (three k e) -> three n k p e", three=3, k=self.num_heads)
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

    def get(self, owner: Any, compute: Callable[[], Any]) -> Any:
        """The result of `compute` for its owner."""
        if not torch.is_inference_mode_enabled():
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
        context = cache.read(k, v)
        q_BSKPE = rearrange(q, "(b s) k p e -> b s k p e", b=B)
        q = rotate(q_BSKPE, context.rotation.last()).flatten(0, 1)
        mask = context.mask.expand(-1, q_BSKPE.shape[1], -1, -1, -1).flatten(0, 1)
        return self.attend(q, context.keys.flatten(0, 1), context.values.flatten(0, 1), mask)


def swap_shards(x: Tensor, gathered: int, split: int, group: dist.ProcessGroup) -> Tensor:
    """Turns a tensor of which each process holds a stretch of axis `gathered` into one of which it holds a stretch
    of axis `split`, whose length the number of processes must divide."""
    parts = torch.stack(x.chunk(dist.get_world_size(group), split)).contiguous()
    received = all_to_all_single(torch.empty_like(parts), parts, group=group)
    return torch.cat(list(received), gathered)


@dataclass(frozen=True)
class Context:
    """What one chunk's queries attend to: rotated keys and values `(B, S, K, slots + 1, E)`, the new frame last.

    `mask` `(B, 1, 1, 1, slots + 1)` is true where a frame stands.
    """

    keys: Tensor
    values: Tensor
    rotation: Rotation
    mask: Tensor


class RingCache:
    """Unrotated keys and values of the last `window - 1` latent frames and the first `anchors`, per session.

    Tensors are allocated once, `(slots, B, S, K, E)` for B session slots; `length_B` counts the committed
    frames of each. Reading leaves the frames as they are; `commit` writes the frame last read. What is read is
    gathered and rotated once a chunk, since only the new frame differs between its denoising steps; no gradient
    flows through it.
    """

    def __init__(
        self, attention: TemporalAttention, num_sessions: int, num_tokens: int, dtype: torch.dtype
    ) -> None:
        norm = attention.query_norm.weight
        self.window, self.anchors = attention.window - 1, attention.anchors
        self.slots = self.window + self.anchors
        shape = (
            self.slots,
            num_sessions,
            num_tokens,
            attention.num_heads,
            len(norm),
        )
        self.keys = torch.zeros(shape, dtype=dtype, device=norm.device)
        self.values = torch.zeros(shape, dtype=dtype, device=norm.device)
        self.all_lengths = torch.zeros(num_sessions, dtype=torch.long, device=norm.device)
        self.active = torch.arange(num_sessions, device=norm.device)
        self._pending: tuple[Tensor, Tensor] | None = None
        self._context: Context | None = None

    @property
    def length_B(self) -> Tensor:
        """Frames committed by each active session."""
        return self.all_lengths[self.active]

    def select(self, sessions: Tensor) -> None:
        """Chooses which session slots the next batch holds, in batch order."""
        self.active = sessions
        self._context = None

    def clear(self, session: int) -> None:
        """Forgets one session slot."""
        self.set_length(session, 0)

    def set_length(self, session: int, length: int) -> None:
        """Says how many frames a session slot has seen; those of them that are out of reach need not be there."""
        self.all_lengths[session] = length
        self._context = None

    @torch.no_grad()
    def read(self, k: Tensor, v: Tensor) -> Context:
        """The cached frames and the new one, whose unrotated keys and values are `(B * S, K, 1, E)`."""
        self.offer(k, v)
        B = len(self.active)
        context = self.context()
        context.keys[..., -1:, :] = rotate(
            rearrange(k, "(b s) k p e -> b s k p e", b=B), context.rotation.last()
        )
        context.values[..., -1:, :] = rearrange(v, "(b s) k p e -> b s k p e", b=B)
        return context

    def offer(self, k: Tensor, v: Tensor) -> None:
        """Takes the new frame's unrotated keys and values, `(B * S, K, 1, E)`, for `commit`."""
        self._pending = (k, v)

    def context(self) -> Context:
        """The cached frames; in the last place, the new one's, is whatever was read last."""
        if self._context is None:
            self._context = self._gather(self.keys.shape[-1])
        return self._context

    def _gather(self, width: int) -> Context:
        slot = torch.arange(self.slots, device=self.keys.device)[None]
        length = self.length_B[:, None]
        newest = torch.remainder(length - 1 - self.anchors - (slot - self.anchors), max(self.window, 1))
        ring_place = self.anchors + self.window - 1 - newest
        # Before the ring is full, frame i simply stands at place i.
        ring_place = torch.where(length < self.slots, slot, ring_place)
        place = torch.where(slot < self.anchors, slot, ring_place)
        position = torch.cat([place, length.clamp_max(self.slots)], 1)
        angles = rotary_angles(position.flatten(), width)
        rotation = Rotation.by(rearrange(angles, "(b p) e -> b 1 1 p e", b=len(position)))
        keys, values = (
            F.pad(rearrange(store[:, self.active], "p b s k e -> b s k p e"), (0, 0, 0, 1))
            for store in (self.keys, self.values)
        )
        mask = F.pad(slot < length, (0, 1), value=True)[:, None, None, None, :]
        return Context(rotate(keys, rotation), values, rotation, mask)

    def commit(self) -> None:
        """Writes the keys and values of the frame last read into the oldest place of each active session."""
        assert self._pending is not None
        B = len(self.active)
        length = self.length_B
        ring = self.anchors + torch.remainder(length - self.anchors, max(self.window, 1))
        slot = torch.where(length < self.anchors, length, ring)
        for store, new in zip((self.keys, self.values), self._pending, strict=True):
            store[slot, self.active] = rearrange(new, "(b s) k 1 e -> b s k e", b=B).to(store.dtype)
        self.all_lengths[self.active] += 1
        self._pending = self._context = None
