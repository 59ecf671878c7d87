"""Attention layers: QK-normalised self-attention, text cross-attention, causal attention along time.

Shape suffixes: B batch, T latent frames, S tokens of a latent frame, L tokens of text, D width, K heads,
E head width, N any merged batch, P positions, W cached frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.distributed.nn.functional import all_to_all_single

from gamegen.models.kv_cache import KVCache, RingCache
from gamegen.models.rotary import Rotation, rotary_angles, rotate


def attention(
    q_NKPE: Tensor, k_NKLE: Tensor, v_NKLE: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Softmax attention, `(N, K, P, E)`; `mask` is true where attended.

    PyTorch's fused attention for CPUs is up to five times slower in bfloat16 than plain products where AMX computes
    them, at the sizes and with the gradients of training.
    """
    if not (q_NKPE.requires_grad and q_NKPE.device.type == "cpu" and q_NKPE.dtype is torch.bfloat16):
        return F.scaled_dot_product_attention(q_NKPE, k_NKLE, v_NKLE, attn_mask=mask, is_causal=is_causal)
    score = (q_NKPE * q_NKPE.shape[-1] ** -0.5) @ k_NKLE.mT
    if is_causal:
        mask = torch.ones(score.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        score = score.masked_fill(~mask, float("-inf"))
    return score.softmax(-1) @ v_NKLE


class HeadNorm(nn.RMSNorm):
    """RMSNorm in the dtype of its input: with a weight of another one, PyTorch computes in float32, step by step."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module):
    """Multi-head self-attention with RMS-normalised queries and keys."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = HeadNorm(width // num_heads)
        self.key_norm = HeadNorm(width // num_heads)
        self.out = nn.Linear(width, width)

    def project(self, x_NPD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised, unrotated queries and keys, and values, each `(N, K, P, E)`."""
        q, k, v = (
            rearrange(part, "n p (k e) -> n k p e", k=self.num_heads) for part in self.qkv(x_NPD).chunk(3, -1)
        )
        return self.query_norm(q), self.key_norm(k), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax attention and the output projection, to `(N, P, D)`; `mask` is true where attended."""
        return self.project_out(attention(q, k, v, mask))

    def project_out(self, heads_NKPE: Tensor) -> Tensor:
        """Output projection of the heads' results, to `(N, P, D)`."""
        return self.out(rearrange(heads_NKPE, "n k p e -> n p (k e)"))


class TextKVCache:
    """Results that depend on one text alone, such as its keys and values in each cross-attention.

    In inference they are computed once for all chunks and denoising steps. In training they are computed every time,
    because gradients flow through them.
    """

    def __init__(self) -> None:
        self._results: dict[Any, Any] = {}
        self._is_precomputed = False

    @classmethod
    def from_precomputed(cls, results: dict[Any, Any]) -> TextKVCache:
        """A cache that holds the results of every owner already, and is enabled in any mode."""
        cache = cls()
        cache._results = results
        cache._is_precomputed = True
        return cache

    @property
    def is_enabled(self) -> bool:
        """True if results are cached: in inference mode, or if they are precomputed."""
        return self._is_precomputed or torch.is_inference_mode_enabled()

    def get(self, owner: Any, compute: Callable[[], Any]) -> Any:
        """The cached result of `owner` (a layer or any other hashable key); calls `compute` if there is none."""
        if not self.is_enabled:
            return compute()
        if owner not in self._results:
            self._results[owner] = compute()
        return self._results[owner]


class CrossAttention(nn.Module):
    """Attention from video tokens to text tokens and one learned null token.

    The null token is all that is attended to when the text is dropped (classifier-free guidance).
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.null_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.query_norm = HeadNorm(width // num_heads)
        self.key_norm = HeadNorm(width // num_heads)
        self.out = nn.Linear(width, width)

    def forward(self, x_BPD: Tensor, text_BLD: Tensor, text_mask_BL: Tensor, cache: TextKVCache) -> Tensor:
        k, v, mask = cache.get(self, lambda: self.keys_values(text_BLD, text_mask_BL))
        q = self.query_norm(rearrange(self.query(x_BPD), "b p (k e) -> b k p e", k=self.num_heads))
        # The mask is expanded over the queries because ONNX's Attention does not broadcast it.
        x = attention(q, k, v, mask.expand(-1, -1, q.shape[2], -1))
        return self.out(rearrange(x, "b k p e -> b p (k e)"))

    def keys_values(self, text_BLD: Tensor, text_mask_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values `(B, K, L + 1, E)` of the null token and a text, and their bool mask `(B, 1, 1, L + 1)`."""
        text = torch.cat([self.null_token.expand(len(text_BLD), -1, -1).to(text_BLD.dtype), text_BLD], 1)
        mask = F.pad(text_mask_BL, (1, 0), value=True)[:, None, None, :]
        k, v = rearrange(self.key_value(text), "b l (two k e) -> two b k l e", two=2, k=self.num_heads)
        return self.key_norm(k), v, mask


class TemporalAttention(SelfAttention):
    """Causal self-attention along time, separately for each token position of the frame.

    A query attends to a window of `window` latent frames (its own included) and to the first `anchors` latent frames
    of the stream. Relative distances never exceed the window and the anchors, however long the stream is.

    With a `sequence_group`, each of its processes holds an equal stretch of the time axis: for this attention they
    exchange stretches of time for shares of the tokens, and back (Jacobs et al. 2023, "DeepSpeed Ulysses").
    """

    def __init__(self, width: int, num_heads: int, window: int, anchors: int = 0) -> None:
        super().__init__(width, num_heads)
        self.window = window
        self.anchors = anchors
        self.sequence_group: dist.ProcessGroup | None = None

    def new_cache(
        self, num_sessions: int, num_tokens: int, dtype: torch.dtype, kind: type[RingCache] = RingCache
    ) -> RingCache:
        """An empty KV cache of a kind on this layer's device, for frames of `num_tokens` tokens."""
        return kind(
            num_sessions=num_sessions,
            num_tokens=num_tokens,
            num_heads=self.num_heads,
            head_dim=len(self.query_norm.weight),
            window=self.window - 1,
            anchors=self.anchors,
            dtype=dtype,
            device=self.query_norm.weight.device,
        )

    def forward(self, x_BTSD: Tensor, cache: KVCache | None = None) -> Tensor:
        """Attention over whole sequences, or with `cache` of one new latent frame (T = 1) to the cached ones."""
        if self.sequence_group is None:
            return self._all_times(x_BTSD, cache)
        x = swap_shards(x_BTSD, gathered=1, split=2, group=self.sequence_group)
        return swap_shards(self._all_times(x, None), gathered=2, split=1, group=self.sequence_group)

    def _all_times(self, x_BTSD: Tensor, cache: KVCache | None) -> Tensor:
        B = x_BTSD.shape[0]
        q, k, v = self.project(rearrange(x_BTSD, "b t s d -> (b s) t d"))
        x = self._whole(q, k, v) if cache is None else self._step(q, k, v, cache, B)
        return rearrange(x, "(b s) t d -> b t s d", b=B)

    def _whole(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        T, E = q.shape[-2:]
        place = torch.arange(T, device=q.device)
        rotation = Rotation.by(rotary_angles(place, E))
        if self.window + self.anchors >= T:
            x = attention(rotate(q, rotation), rotate(k, rotation), v, is_causal=True)
        else:
            x = self._windowed(q, k, v, rotation)
        return self.out(rearrange(x, "n k t e -> n t (k e)"))

    def _windowed(self, q: Tensor, k: Tensor, v: Tensor, rotation: Rotation) -> Tensor:
        """Attention with window and anchors: keys of each have their own rotary distance from the query."""
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

    def _step(self, q: Tensor, k: Tensor, v: Tensor, cache: KVCache, B: int) -> Tensor:
        """Attention of one new frame; cached keys and the frame's own are scored apart, which saves a copy."""
        past, E = cache.past(), q.shape[-1]
        view = past.view
        q, k, v = (rearrange(x, "(b s) k 1 e -> b s k 1 e", b=B) for x in (q, k, v))
        near, k = rotate(q, view.rotation), rotate(k, view.rotation)
        cache.stage(k, v)
        score = near @ past.keys
        if self.anchors:
            far = rotate(q, view.far) @ past.keys[..., : self.anchors]
            score = torch.cat([far, score[..., self.anchors :]], -1)
        own = (near * k).sum(-1, keepdim=True)
        score = torch.cat([score.masked_fill(~view.mask, float("-inf")), own], -1) * E**-0.5
        weight = score.float().softmax(-1).to(v.dtype)
        x = weight[..., :-1] @ past.values + weight[..., -1:] * v
        return self.out(rearrange(x, "b s k 1 e -> (b s) 1 (k e)"))


def swap_shards(x: Tensor, gathered: int, split: int, group: dist.ProcessGroup) -> Tensor:
    """All-to-all that gathers the axis `gathered`, sharded over the processes of `group`, and shards `split` instead.

    The number of processes must divide the length of `split`.
    """
    parts = torch.stack(x.chunk(dist.get_world_size(group), split)).contiguous()
    received = all_to_all_single(torch.empty_like(parts), parts, group=group)
    return torch.cat(list(received), gathered)
