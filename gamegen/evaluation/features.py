"""Image features of EfficientNet-lite0, and Fréchet distances between sets of features.

Tan and Le 2019, "EfficientNet"; the weights (ImageNet) come inside a pip package. Frames are uint8 `(N, H, W, 3)`
RGB throughout, and go through the network at their own size: compared frames must have one size.

d² = |m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½) of two Gaussians with the sets' means and covariances (Dowson and Landau
1982; on network features Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule"). The field's FID and
FVD are this distance on features of Inception-v3 and I3D; on other features it is another number.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gamegen.evaluation.bootstrap import Statistic
from gamegen.models.image_features import image_features

GRID = (3, 5)
"""Rows and columns of the cells in which views are compared."""


@dataclass(frozen=True)
class FeatureMaps:
    """Activations `(N, C, h, w)` float32: `fine` at 1/8, `middle` at 1/16 and `last` at 1/32 of the frame's size."""

    fine: Tensor
    middle: Tensor
    last: Tensor

    def pooled(self) -> np.ndarray:
        """The last layer averaged over the frame, float32 `(N, 1280)`."""
        return self.last.mean((2, 3)).numpy()

    def centre_and_border(self) -> tuple[np.ndarray, np.ndarray]:
        """The middle layer averaged over the inner half of both sides, and over the rest, float32 `(N, 112)`."""
        height, width = self.middle.shape[2:]
        top, left = height // 4, width // 4
        inside = torch.zeros(height, width)
        inside[top : height - top, left : width - left] = 1
        outside = 1 - inside
        # A map of one cell has no border: then both are the whole.
        shares = (inside, outside if outside.any() else inside)
        centre, border = ((self.middle * share).sum((2, 3)) / share.sum() for share in shares)
        return centre.numpy(), border.numpy()

    def by_cell(self) -> np.ndarray:
        """The middle layer averaged over each cell of `GRID`, of unit length there, float32 `(N, 15, 112)`."""
        cells = F.adaptive_avg_pool2d(self.middle, GRID).flatten(2)
        return rearrange(F.normalize(cells, dim=1), "n c cells -> n cells c").numpy()


class FeatureNetwork:
    """EfficientNet-lite0 on the CPU."""

    @torch.inference_mode()
    def maps(self, frames: np.ndarray, frames_per_pass: int = 16) -> FeatureMaps:
        """Activations of all frames, a few frames a pass."""
        parts = []
        for start in range(0, len(frames), frames_per_pass):
            batch = torch.from_numpy(np.ascontiguousarray(frames[start : start + frames_per_pass])).float()
            parts.append(image_features()(rearrange(batch, "n h w c -> n c h w")))
        return FeatureMaps(*(torch.cat(layer) for layer in zip(*parts, strict=True)))


@functools.cache
def feature_network() -> FeatureNetwork:
    """The network, loaded once a process."""
    return FeatureNetwork()


class FrechetReference:
    """Reference set of features, `(M, D)` with M at least 2, prepared for many distances to it."""

    def __init__(self, features: np.ndarray) -> None:
        _check(features)
        b = features.astype(np.float64)
        self._mean = b.mean(0)
        b = (b - self._mean) / np.sqrt(len(b) - 1)
        self._trace = float((b**2).sum())
        # A rotation of the samples changes no covariance: a triangle stands for a set larger than its dimension.
        self._scaled: np.ndarray = np.linalg.qr(b, mode="r") if len(b) > b.shape[1] else b  # type: ignore[assignment]

    def distance_of(self, units: np.ndarray) -> Statistic:
        """The distance as a function of the indices of units, from features `(units, samples, D)`.

        tr (S1 S2)^½ is the sum of the singular values of A Bᵀ / √((N - 1)(M - 1)) for centred A and B, exact also
        where there are fewer samples than dimensions. Few samples make the distance too large: compare equal counts.
        """
        units = units.astype(np.float64) - self._mean
        products = units @ self._scaled.T
        squares = (units**2).sum(-1)

        def distance(indices: np.ndarray) -> float:
            samples = units[indices].reshape(-1, units.shape[-1])
            _check(samples)
            count, mean = len(samples), samples.mean(0)
            trace = (squares[indices].sum() - count * (mean**2).sum()) / (count - 1)
            product = products[indices].reshape(count, -1)
            product = (product - product.mean(0)) / np.sqrt(count - 1)
            gram = product @ product.T if count <= product.shape[1] else product.T @ product
            # Squares of singular values: quicker to have than these, and thousands of distances are asked for.
            cross = np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum()
            return float((mean**2).sum() + trace + self._trace - 2 * cross)

        return distance


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of two sets of features `(N, D)` and `(M, D)`, N and M at least 2."""
    return FrechetReference(b).distance_of(a[:, None])(np.arange(len(a)))


def _check(samples: np.ndarray) -> None:
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} samples: a Fréchet distance needs at least 2 a side")
