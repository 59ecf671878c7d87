"""Triton kernel of block-sparse softmax attention, for machines with Triton and a GPU.

`gamegen/models/sparse_attention.py` has the reference in plain PyTorch.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter runs kernels on any machine, slowly: for tests."""
_FOUND = importlib.util.find_spec("triton") is not None

if _FOUND:
    import triton
    import triton.language as tl

    @triton.jit
    def _attend(
        q_ptr,
        k_ptr,
        v_ptr,
        index_ptr,
        out_ptr,
        num_tokens,
        num_blocks,
        scale,
        chunk,
        KEPT: tl.constexpr,
        BLOCK: tl.constexpr,
        WIDTH: tl.constexpr,
        PADDED_WIDTH: tl.constexpr,
        CAUSAL: tl.constexpr,
    ):
        """One query block of one head: the running softmax of Flash Attention over its chosen key blocks."""
        i = tl.program_id(0)
        head = tl.program_id(1).to(tl.int64)
        rows = i * BLOCK + tl.arange(0, BLOCK)
        columns = tl.arange(0, PADDED_WIDTH)
        start = head * num_tokens * WIDTH
        q_mask = (rows[:, None] < num_tokens) & (columns[None, :] < WIDTH)
        q_places = start + rows[:, None] * WIDTH + columns[None, :]
        q = tl.load(q_ptr + q_places, mask=q_mask, other=0.0)
        highest = tl.full([BLOCK], -1e30, tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        read = tl.zeros([BLOCK, PADDED_WIDTH], tl.float32)
        for m in range(KEPT):
            j = tl.load(index_ptr + (head * num_blocks + i) * KEPT + m)
            keys = j * BLOCK + tl.arange(0, BLOCK)
            k_mask = (keys[:, None] < num_tokens) & (columns[None, :] < WIDTH)
            k_places = start + keys[:, None] * WIDTH + columns[None, :]
            k = tl.load(k_ptr + k_places, mask=k_mask, other=0.0)
            v = tl.load(v_ptr + k_places, mask=k_mask, other=0.0)
            score = tl.dot(q, tl.trans(k), input_precision="ieee").to(tl.float32) * scale
            visible = keys[None, :] < num_tokens
            if CAUSAL:
                visible = visible & (keys[None, :] // chunk <= rows[:, None] // chunk)
            score = tl.where(visible, score, float("-inf"))
            new_highest = tl.maximum(highest, tl.max(score, 1))
            weight = tl.exp(score - new_highest[:, None])
            shrink = tl.exp(highest - new_highest)
            total = total * shrink + tl.sum(weight, 1)
            read = read * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee").to(
                tl.float32
            )
            highest = new_highest
        out = read / total[:, None]
        tl.store(out_ptr + q_places, out.to(q.dtype), mask=q_mask)


def runs_on(device: torch.device) -> bool:
    """Whether the kernel can run on `device`."""
    return _FOUND and (device.type in ("cuda", "xpu") or INTERPRETED)


def block_sparse(
    q: Tensor, k: Tensor, v: Tensor, index_NKIM: Tensor, block: int, chunk: int | None = None
) -> Tensor:
    """Attention of queries `(N, K, S, E)` over the key blocks chosen for each block of `block` queries.

    `block` is a power of two of at least 16. No gradient flows.
    """
    q, k, v, index = (x.contiguous() for x in (q, k, v, index_NKIM.to(torch.int32)))
    N, K, S, E = q.shape
    out = torch.empty_like(q)
    num_blocks, kept = index.shape[2:]
    _attend[(num_blocks, N * K)](
        q,
        k,
        v,
        index,
        out,
        S,
        num_blocks,
        E**-0.5,
        chunk or 1,
        KEPT=kept,
        BLOCK=block,
        WIDTH=E,
        PADDED_WIDTH=max(16, triton.next_power_of_2(E)),
        CAUSAL=chunk is not None,
    )
    return out
