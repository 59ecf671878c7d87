"""The `idm` stage: inverse dynamics learned from recorded keys and turns, key thresholds included."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gamegen.controls import MAX_CAMERA_DEG
from gamegen.device import default_device
from gamegen.media.mp4 import read_mp4
from gamegen.models.checkpoint import read_card, save_checkpoint
from gamegen.models.counts import measured_flops
from gamegen.models.inverse_dynamics import (
    MAP_CHANNELS,
    InverseDynamics,
    InverseDynamicsConfig,
    expected_deg,
    load_inverse_dynamics,
)
from gamegen.training.flops import FORWARD_AND_BACKWARD, BatchCost
from gamegen.training.objectives.objective import Metrics, Objective
from gamegen.training.recorded_windows import (
    InverseDynamicsLossConfig,
    RecordedBatch,
    RecordedWindows,
    recorded_actions,
)
from gamegen.training.stages.stage import Stage


@dataclass(frozen=True, kw_only=True)
class InverseDynamicsStage(Stage[InverseDynamicsConfig, InverseDynamics]):
    """Trains inverse dynamics, from `init` or from nothing in the sizes of `idm_model`."""

    stage: Literal["idm"] = "idm"
    shards: ClassVar[Literal["curated", "encoded"]] = "curated"
    idm_model: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    idm_loss: InverseDynamicsLossConfig = field(default_factory=InverseDynamicsLossConfig)

    def build_model(self, init: Path | str | None, data: Path, output: Path) -> InverseDynamics:
        model = load_inverse_dynamics(init) if init else InverseDynamics(self.idm_model).to(default_device())
        return model.train()

    def windows(self, model: InverseDynamicsConfig) -> RecordedWindows:
        return RecordedWindows(model, self.idm_loss)

    def objective(self, model: InverseDynamics) -> InverseDynamicsObjective:
        return InverseDynamicsObjective(model, self.idm_loss)

    def batch_cost(self, model: InverseDynamicsConfig, batch: RecordedBatch) -> BatchCost:
        """Cost of a batch, whose tokens are the steps between frames."""
        B, T = batch.maps.shape[:2]
        return BatchCost(B, B * T, float(FORWARD_AND_BACKWARD * B * _window_flops(model, T)))

    def finish(self, output: Path, data: Path) -> None:
        """Chooses the key thresholds on the validation split, if there is one."""
        if (data / "split=validation").is_dir():
            set_thresholds(output, data)


class InverseDynamicsObjective(Objective):
    """Negative log-likelihood of a step's keys and turns (in nats), on maps with a little noise."""

    model: InverseDynamics

    def __init__(self, model: InverseDynamics, config: InverseDynamicsLossConfig) -> None:
        self.model, self.config = model, config

    def trained_modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_children())

    def loss(
        self, batch: RecordedBatch, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, Metrics]:
        device = self.model.device
        held, turns_deg = batch.keys.to(device), batch.turns_deg.to(device)
        keys, camera = self.model(self._noisy(batch.maps, generator).to(device))
        keys_loss = F.binary_cross_entropy_with_logits(keys.float(), held, reduction="none").sum(-1).mean()
        target = two_hot(turns_deg, self.model.bins_deg)
        camera_loss = -(target * camera.float().log_softmax(-1)).sum((-1, -2)).mean()
        return keys_loss + camera_loss, {
            "keys_loss": keys_loss.item(),
            "camera_loss": camera_loss.item(),
            **self._agreement(keys.detach(), camera.detach(), held, turns_deg),
        }

    def _agreement(self, keys: Tensor, camera: Tensor, held: Tensor, turns_deg: Tensor) -> Metrics:
        guessed = keys > 0
        true_positives = (guessed & (held > 0)).sum()
        f1 = 2 * true_positives / (guessed.sum() + held.sum()).clamp_min(1)
        error_deg = (expected_deg(camera.float(), self.model.bins_deg) - turns_deg).abs().mean((0, 1))
        return {
            "key_f1": f1.item(),
            "yaw_error_deg": error_deg[0].item(),
            "pitch_error_deg": error_deg[1].item(),
        }

    def _noisy(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """Maps with noise of an amount drawn for each window."""
        amount = self.config.map_noise * torch.rand((len(maps), 1, 1, 1, 1), generator=generator)
        return maps + amount * torch.randn(maps.shape, generator=generator)

    @torch.inference_mode()
    def sheet(self, batch: RecordedBatch) -> np.ndarray:
        """Strips of four windows, a line for each key and one for the yaw, along time: truth above, guess below."""
        keys, camera = self.model(batch.maps.to(self.model.device))
        yaw_deg = expected_deg(camera.float(), self.model.bins_deg)[..., 0].cpu()
        rows = []
        for i in range(min(4, len(keys))):
            rows += [
                _strip(batch.keys[i], batch.turns_deg[i, :, 0]),
                _strip(keys[i].sigmoid().cpu(), yaw_deg[i]),
            ]
        return np.repeat(np.concatenate(rows)[..., None], 3, -1)


def _strip(keys_TK: Tensor, yaw_T: Tensor, side_px: int = 8) -> np.ndarray:
    """Grey squares uint8, a line for each key and one for the turn, where mid-grey is none."""
    turn_T = (0.5 + yaw_T / (2 * MAX_CAMERA_DEG)).clamp(0, 1)
    lines = torch.cat([keys_TK, turn_T[:, None]], 1).T.numpy()
    return np.kron((lines * 255).astype(np.uint8), np.ones((side_px, side_px), np.uint8))


def two_hot(turns_deg: Tensor, bins_deg: Tensor) -> Tensor:
    """Turns `(...)` as weights of their two neighbouring bins `(..., bins)`, whose mean is the turn.

    Hafner et al. 2023 (DreamerV3), section "Critic learning". Turns beyond the outer bins count as these.
    """
    turns_deg = turns_deg.clamp(bins_deg[0], bins_deg[-1])
    upper = torch.searchsorted(bins_deg, turns_deg).clamp(1, len(bins_deg) - 1)
    low, high = bins_deg[upper - 1], bins_deg[upper]
    share = ((turns_deg - low) / (high - low))[..., None]
    weights = torch.zeros(*turns_deg.shape, len(bins_deg), device=turns_deg.device)
    return weights.scatter(-1, upper[..., None] - 1, 1 - share).scatter(-1, upper[..., None], share)


def choose_thresholds(probabilities: np.ndarray, held: np.ndarray, rounds: int = 10) -> tuple[float, ...]:
    """Thresholds, one for each key, of the highest micro-F1 over `(N, keys)` probabilities and truth.

    With 2 TP - F (guessed + held) zero at the best F, each key can be maximised by itself (Dinkelbach 1967); F
    is raised until it stays.
    """
    thresholds = np.full(held.shape[1], 0.5)
    f1 = 0.0
    for _ in range(rounds):
        guessed = probabilities >= thresholds
        f1 = 2 * (guessed & held).sum() / max(guessed.sum() + held.sum(), 1)
        thresholds = np.array(
            [_best_threshold(p, h, f1) for p, h in zip(probabilities.T, held.T, strict=True)]
        )
    return tuple(round(float(threshold), 4) for threshold in thresholds)


def _best_threshold(probabilities: np.ndarray, held: np.ndarray, f1: float) -> float:
    candidates = np.linspace(0.05, 0.95, 91)
    gains = []
    for threshold in candidates:
        guessed = probabilities >= threshold
        gains.append(2 * (guessed & held).sum() - f1 * guessed.sum())
    # The middle of all the best: a key that is never held leaves the choice open.
    best = candidates[np.array(gains) == max(gains)]
    return float(best[len(best) // 2])


def set_thresholds(folder: Path, data: Path) -> None:
    """Writes into a checkpoint the key thresholds that are best on the validation split of curated shards."""
    # Not where training starts: a machine that only trains packed shards reads no Parquet.
    from gamegen.curation.shards import read_rows

    model = load_inverse_dynamics(folder)
    probabilities, held = [], []
    for row in read_rows(data, splits=["validation"]):
        probabilities.append(model.predict(read_mp4(row["video"])).keys)
        held.append(recorded_actions(row)[0])
    thresholds = choose_thresholds(np.concatenate(probabilities), np.concatenate(held))
    config = replace(model.config, key_thresholds=thresholds)
    save_checkpoint(folder, config, model.state_dict(), read_card(folder))


@lru_cache(maxsize=16)
def _window_flops(config: InverseDynamicsConfig, steps: int) -> int:
    columns, rows = config.cells
    with torch.device("meta"):
        model = InverseDynamics(config)
        maps = torch.empty(1, steps, MAP_CHANNELS, rows, columns)
    return measured_flops(lambda: model(maps))
