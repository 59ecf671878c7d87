"""Fitting of scene probes to the prompts of encoded clips and the recorded truth of the scenes they describe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gamegen.curation import shards
from gamegen.curation.encoded import ALIKE, SETTLED_CHUNKS
from gamegen.curation.encoded_clip import text_states
from gamegen.gallery.scene_probes import ATTRIBUTES, SceneProbes, unit_vectors


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of the fit.

    The penalty on squared weights is the one of `penalties` under which every `held_out_every`-th text, left out of the
    fit, is most likely; the probe is then fitted to all texts.
    """

    penalties: tuple[float, ...] = (1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
    held_out_every: int = 5
    max_iterations: int = 200


@dataclass(frozen=True)
class DescribedText:
    """A text's pooled encoding float32 `(D,)` and, by attribute, how many scenes of each value it describes."""

    vector: np.ndarray
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in ATTRIBUTES})


def scene_value(recorded: Sequence[str], chunk: int) -> str | None:
    """A chunk's value, as probes know it, of an attribute's recorded values; None for footage without truth."""
    value = recorded[chunk] if recorded else ""
    return ALIKE.get(value, value) or None


def read_texts(data: Path, split: str) -> dict[str, DescribedText]:
    """The texts that describe scenes of a split's encoded clips under `data`."""
    columns = ["segments", "num_chunks", *ATTRIBUTES]
    return described_texts(shards.read_rows(data, columns, [split]))


def described_texts(rows: Iterable[Mapping[str, Any]]) -> dict[str, DescribedText]:
    """The texts of rows' segments; rows are of `gamegen.curation.encoded.SCHEMA`."""
    texts: dict[str, DescribedText] = {}
    for row in rows:
        for segment in row["segments"]:
            chunk = min(segment["chunk"] + SETTLED_CHUNKS, row["num_chunks"] - 1)
            scene = {name: scene_value(row[name], chunk) for name in ATTRIBUTES}
            for prompt in segment["prompts"]:
                if prompt["text"] not in texts:
                    texts[prompt["text"]] = DescribedText(text_states(prompt["tokens"]).pooled.numpy())
                for name, value in scene.items():
                    if value is not None:
                        texts[prompt["text"]].counts[name][value] += 1
    return texts


def fit_probes(texts: Mapping[str, DescribedText], config: ProbeConfig = ProbeConfig()) -> SceneProbes | None:
    """Probes of the attributes that have two values or more among the texts' scenes; None if no attribute has."""
    values: dict[str, tuple[str, ...]] = {}
    weights, biases = {}, {}
    for name in ATTRIBUTES:
        known = [texts[text] for text in sorted(texts) if texts[text].counts[name]]
        told = tuple(sorted({value for text in known for value in text.counts[name]}))
        if len(told) < 2:
            continue
        directions_ND = torch.from_numpy(unit_vectors(np.stack([text.vector for text in known])))
        counts_NV = torch.tensor([[text.counts[name][value] for value in told] for text in known]).double()
        weights_DV, bias_V = _fit(directions_ND, counts_NV, config)
        values[name] = told
        weights[name], biases[name] = weights_DV.float().numpy(), bias_V.float().numpy()
    return SceneProbes(values=values, weights=weights, biases=biases) if values else None


def _fit(directions_ND: Tensor, counts_NV: Tensor, config: ProbeConfig) -> tuple[Tensor, Tensor]:
    """Weights `(D, V)` and biases `(V,)` of one attribute, on vectors of length 1."""
    centre_D = directions_ND.mean(0)
    # What all texts share, which is most of each vector, would leave the penalty little to act on.
    scale = 1 / (directions_ND - centre_D).square().sum(1).mean().sqrt().clamp_min(1e-6)
    x_ND = (directions_ND - centre_D) * scale
    held_out_N = torch.arange(len(x_ND)) % config.held_out_every == config.held_out_every - 1
    penalty = config.penalties[0]
    if held_out_N.any():
        losses = {}
        for candidate in config.penalties:
            fitted = _softmax_regression(x_ND[~held_out_N], counts_NV[~held_out_N], candidate, config)
            losses[candidate] = float(_loss(x_ND[held_out_N], counts_NV[held_out_N], *fitted))
        penalty = min(losses, key=losses.__getitem__)
    weights_DV, bias_V = _softmax_regression(x_ND, counts_NV, penalty, config)
    return weights_DV * scale, bias_V - centre_D @ weights_DV * scale


def _softmax_regression(
    x_ND: Tensor, counts_NV: Tensor, penalty: float, config: ProbeConfig
) -> tuple[Tensor, Tensor]:
    """Weights `(D, V)` and biases `(V,)` of the least penalised cross entropy, by L-BFGS from zero."""
    weights_DV = x_ND.new_zeros(x_ND.shape[1], counts_NV.shape[1], requires_grad=True)
    bias_V = x_ND.new_zeros(counts_NV.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights_DV, bias_V],
        max_iter=config.max_iterations,
        tolerance_grad=1e-5,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = _loss(x_ND, counts_NV, weights_DV, bias_V) + penalty * weights_DV.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return weights_DV.detach(), bias_V.detach()


def _loss(x_ND: Tensor, counts_NV: Tensor, weights_DV: Tensor, bias_V: Tensor) -> Tensor:
    """Cross entropy in nats, the mean over the scenes that the texts describe."""
    log_probability_NV = (x_ND @ weights_DV + bias_V).log_softmax(1)
    return -(counts_NV * log_probability_NV).sum() / counts_NV.sum()
