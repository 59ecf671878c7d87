"""Fréchet distances between sets of features.

d² = |m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½) of two Gaussians with the sets' means and covariances (Dowson and Landau
1982; on network features Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule"). The field's FID and
FVD are this distance on features of Inception-v3 and I3D; on other features it is another number.
"""

from __future__ import annotations

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of two sets of features `(N, D)` and `(M, D)`, N and M at least 2.

    tr (S1 S2)^½ is the sum of the singular values of A Bᵀ / √((N - 1)(M - 1)) for centred A and B, exact also where
    there are fewer samples than dimensions. Few samples make the distance too large, so compare equal counts.
    """
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 samples a side, got {len(a)} and {len(b)}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = (a - mean_a) / np.sqrt(len(a) - 1), (b - mean_b) / np.sqrt(len(b) - 1)
    # A rotation of the samples changes no covariance: triangles stand for sets larger than their dimension.
    a, b = (np.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x for x in (a, b))
    product = a @ b.T if len(a) <= len(b) else b @ a.T
    # Squares of singular values: quicker to have than these, and thousands of distances are asked for.
    cross = np.sqrt(np.linalg.eigvalsh(product @ product.T).clip(0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * cross)
