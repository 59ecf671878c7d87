"""Scene probes: the biome, weather and time of day that a prompt asks for, read off its pooled encoding.

Each attribute has a softmax regression on the pooled vector of a prompt. One that does not name an attribute leaves its
probability spread over the values. They are read without PyTorch; `gamegen.gallery.probe_fitting` fits them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ATTRIBUTES = ("biome", "weather", "time_of_day")
"""Attributes of a scene that starts of one perspective differ in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneProbes:
    """Probes of the attributes in `values`, each of which names the V values it tells apart.

    `weights` float32 `(D, V)` and `biases` float32 `(V,)` of an attribute act on prompts' vectors of length 1.
    """

    values: dict[str, tuple[str, ...]]
    weights: dict[str, np.ndarray]
    biases: dict[str, np.ndarray]

    def log_probabilities(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Log probabilities float64 `(V,)`, by attribute, that a prompt of this encoding `(D,)` asks for its values."""
        direction = unit_vectors(vector)
        return {
            name: _log_softmax(direction @ self.weights[name] + self.biases[name]) for name in self.values
        }

    def log_likelihoods(self, vector: np.ndarray, scenes: Sequence[Mapping[str, str | None]]) -> np.ndarray:
        """Log likelihoods float64 `(N,)` of N scenes, values by attribute, under a prompt of this encoding `(D,)`.

        A value that is None or that the probe does not know counts as one of V equally likely ones.
        """
        total = np.zeros(len(scenes))
        for name, log_probability in self.log_probabilities(vector).items():
            known = dict(zip(self.values[name], log_probability, strict=True))
            unknown = -np.log(len(known))
            total += [known.get(scene.get(name) or "", unknown) for scene in scenes]
        return total

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights and biases by the name that `from_arrays` finds them under."""
        weights = {f"{name}.weights": self.weights[name] for name in self.values}
        return weights | {f"{name}.biases": self.biases[name] for name in self.values}

    @classmethod
    def from_arrays(
        cls, values: Mapping[str, Sequence[str]], arrays: Mapping[str, np.ndarray]
    ) -> SceneProbes:
        """Probes of these values by attribute; raises KeyError if their weights or biases are missing."""
        return cls(
            values={name: tuple(told) for name, told in values.items()},
            weights={name: arrays[f"{name}.weights"] for name in values},
            biases={name: arrays[f"{name}.biases"] for name in values},
        )


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors `(..., D)` scaled to length 1, float64."""
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
