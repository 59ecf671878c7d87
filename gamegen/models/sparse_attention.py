"""Sparse-linear attention: softmax attention over chosen key blocks, plus a linear branch over all keys.

`O = softmax over chosen blocks + proj(phi(Q) (phi(K)^T V) / (phi(Q) sum phi(K)))` with phi a softmax over channels
and `proj` zero at first, so that a dense network starts where its chosen blocks leave it (Zhang et al. 2025, "SLA:
Beyond Sparsity in Diffusion Transformers via Fine-Tunable Sparse-Linear Attention", section 4). It pays only
for frames of thousands of tokens; `SparseAttentionConfig.min_tokens` is the threshold.

With `chunk`, token s belongs to chunk `s // chunk` and sees the chunks up to its own.

Shape suffixes: N any merged batch, K heads, S tokens, E head width, I query blocks, J key blocks, M chosen blocks,
P tokens of a block, C chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gamegen.models import sparse_kernel


@dataclass(frozen=True)
class SparseAttentionConfig:
    """Sparsity of attention.

    Each block of `block` queries attends to a share `keep` of the key blocks, at least to its own; attention over fewer
    than `min_tokens` tokens stays dense.
    """

    block: int = 64
    keep: float = 0.125
    min_tokens: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1 or self.block < 1:
            raise ValueError(
                f"keep = {self.keep}, block = {self.block}: keep must be above 0 and at most 1, block at least 1"
            )

    def num_kept(self, num_blocks: int) -> int:
        """Number of key blocks that a query block attends to."""
        return min(num_blocks, max(1, math.ceil(self.keep * num_blocks)))


class SparseLinearAttention(nn.Module):
    """Replacement of softmax attention over queries, keys and values `(N, K, S, E)`."""

    def __init__(self, num_heads: int, head_width: int, config: SparseAttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.proj_KEE = nn.Parameter(torch.zeros(num_heads, head_width, head_width))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, chunk: int | None = None) -> Tensor:
        """Attention output `(N, K, S, E)`; `chunk` makes it causal over chunks of that many tokens."""
        index = choose_blocks(q, k, self.config, chunk)
        linear = linear_attention(q, k, v, chunk)
        return block_sparse(q, k, v, index, self.config.block, chunk) + torch.einsum(
            "nkse,kef->nksf", linear, self.proj_KEE.to(linear.dtype)
        )


@torch.no_grad()
def choose_blocks(q: Tensor, k: Tensor, config: SparseAttentionConfig, chunk: int | None = None) -> Tensor:
    """Indices `(N, K, I, M)` of the key blocks whose means score highest with a query block's mean, and its own."""
    block, num_tokens = config.block, q.shape[-2]
    score = _block_means(q, block) @ _block_means(k, block).transpose(-1, -2)
    num_blocks = score.shape[-1]
    place = torch.arange(num_blocks, device=q.device)
    if chunk is not None:
        last_token = ((place + 1) * block - 1).clamp_max(num_tokens - 1)
        unseen = (place * block // chunk)[None, :] > (last_token // chunk)[:, None]
        score = score.masked_fill(unseen, float("-inf"))
    score = score.masked_fill(place[:, None] == place[None, :], float("inf"))
    return score.topk(config.num_kept(num_blocks), dim=-1).indices


def _block_means(x: Tensor, block: int) -> Tensor:
    padded = _padded(x, block)
    sums = rearrange(padded, "n k (i p) e -> n k i p e", p=block).sum(3)
    counts = _padded(torch.ones_like(x[:1, :1, :, :1]), block)
    return sums / rearrange(counts, "n k (i p) e -> n k i p e", p=block).sum(3)


def _padded(x: Tensor, block: int) -> Tensor:
    return F.pad(x, (0, 0, 0, -x.shape[-2] % block))


def block_sparse(
    q: Tensor, k: Tensor, v: Tensor, index_NKIM: Tensor, block: int, chunk: int | None = None
) -> Tensor:
    """Softmax attention of each query block over its chosen key blocks, by the Triton kernel where available.

    The kernel has no backward pass: with gradients, the reference computes.
    """
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if sparse_kernel.runs_on(q.device) and not needs_gradient:
        return sparse_kernel.block_sparse(q, k, v, index_NKIM, block, chunk)
    return block_sparse_reference(q, k, v, index_NKIM, block, chunk)


def block_sparse_reference(
    q: Tensor, k: Tensor, v: Tensor, index_NKIM: Tensor, block: int, chunk: int | None = None
) -> Tensor:
    """`block_sparse` in plain PyTorch, by gathering the chosen blocks."""
    num_tokens, E = q.shape[-2:]
    queries, keys, values = (
        rearrange(_padded(x, block), "n k (i p) e -> n k i p e", p=block) for x in (q, k, v)
    )
    keys, values = (_gathered(x, index_NKIM) for x in (keys, values))
    place = torch.arange(block, device=q.device)
    key_place = rearrange(index_NKIM[..., None] * block + place, "n k i m p -> n k i 1 (m p)")
    visible = key_place < num_tokens
    if chunk is not None:
        query_place = torch.arange(queries.shape[2] * block, device=q.device).view(1, 1, -1, block, 1)
        visible = visible & (key_place // chunk <= query_place // chunk)
    # A block's own keys are always chosen, so every query attends to something.
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible, scale=E**-0.5)
    return rearrange(out, "n k i p e -> n k (i p) e")[:, :, :num_tokens]


def _gathered(blocks_NKJPE: Tensor, index_NKIM: Tensor) -> Tensor:
    """Concatenated chosen blocks, `(N, K, I, M * P, E)`."""
    P, E = blocks_NKJPE.shape[-2:]
    index = rearrange(index_NKIM, "n k i m -> n k (i m) 1 1").expand(-1, -1, -1, P, E)
    chosen = blocks_NKJPE.gather(2, index)
    return rearrange(chosen, "n k (i m) p e -> n k i (m p) e", m=index_NKIM.shape[-1])


def linear_attention(q: Tensor, k: Tensor, v: Tensor, chunk: int | None = None) -> Tensor:
    """`phi(Q) (phi(K)^T V) / (phi(Q) sum phi(K))`, linear in the number of tokens; chunks accumulate in one state."""
    num_tokens = q.shape[-2]
    size = chunk or num_tokens
    queries, keys, values = (
        rearrange(_padded(x, size), "n k (c p) e -> n k c p e", p=size)
        for x in (q.softmax(-1), k.softmax(-1), v)
    )
    state = (keys.transpose(-1, -2) @ values).cumsum(2)
    total = keys.sum(3, keepdim=True).cumsum(2)
    out = (queries @ state) / (queries * total).sum(-1, keepdim=True).clamp_min(1e-6)
    return rearrange(out, "n k c p e -> n k (c p) e")[:, :, :num_tokens]
