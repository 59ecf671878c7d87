"""Rotary position embeddings (Su et al. 2021, "RoFormer"), along time and in two dimensions; pure functions.

Shape suffixes: N any merged batch, K heads, P positions, E head width, B batch, S tokens of a latent frame.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


def rotary_angles(position_P: Tensor, width: int, base: float = 1000.0) -> Tensor:
    """Rotation angles `(P, width / 2)` in radians of positions `(P,)` (RoFormer, §3.2).

    The dtype is float32 for integer positions and the positions' own otherwise.
    """
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
        """Rotation by `angles` in radians."""
        return cls(angles.cos(), angles.sin())


# Every block of every pass needs one. Made outside of inference mode, because training uses them too.
@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def rotation_2d(
    rows: int, columns: int, width: int, device: torch.device, grid: tuple[int, int] | None = None
) -> Rotation:
    """Rotation of `rows * columns` tokens in row-major order, shape `(rows * columns, width / 2)`.

    The first half of the frequencies encodes the row, the second half the column. Positions are those of a `grid`
    (rows, columns) that covers the same picture, so that a picture of another size keeps the trained distances.
    """
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
    """Rotates the channel pairs (i, i + E / 2) of `x` `(..., P, E)`; computes in the dtype of `x`."""
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    if torch.compiler.is_exporting():
        return _rotate_for_onnx(x, cos, sin)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _rotate_for_onnx(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` as ONNX's single RotaryEmbedding operation; `x` is `(N, K, P, E)` or, along time, `(B, S, K, 1, E)`."""
    if x.ndim == 5:
        return _rotate_for_onnx(x.flatten(1, 2), cos[:, 0], sin[:, 0]).unflatten(1, x.shape[1:3])
    cos, sin = (part.expand(x.shape[0], 1, x.shape[2], -1)[:, 0] for part in (cos, sin))
    return torch.onnx.ops.rotary_embedding(x, cos, sin)
