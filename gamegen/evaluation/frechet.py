"""Fréchet distances between sets of features.

d² = |m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½) of two Gaussians with the sets' means and covariances (Dowson and Landau
1982; on network features Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule"). The field's FID and
FVD are this distance on features of Inception-v3 and I3D; on other features it is another number.
"""

from __future__ import annotations

import numpy as np

from gamegen.evaluation.bootstrap import Statistic


class FrechetReference:
    """One of the two sets, `(M, D)` with M at least 2, prepared for many distances to it."""

    def __init__(self, features: np.ndarray) -> None:
        _check(features)
        b = features.astype(np.float64)
        self._mean = b.mean(0)
        b = (b - self._mean) / np.sqrt(len(b) - 1)
        self._trace = float((b**2).sum())
        # A rotation of the samples changes no covariance: a triangle stands for a set larger than its dimension.
        self._scaled: np.ndarray = np.linalg.qr(b, mode="r") if len(b) > b.shape[1] else b  # type: ignore[assignment]

    def distance_of(self, units: np.ndarray) -> Statistic:
        """The distance as a function of which units are taken, from features `(units, samples, D)`.

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
        raise ValueError(f"a Fréchet distance needs at least 2 samples a side, got {len(samples)}")
