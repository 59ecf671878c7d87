"""The idm stage: inverse dynamics learned from recorded truth, thresholds included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gamegen.controls import MAX_CAMERA_DEG
from gamegen.curation.decode import decode_clip
from gamegen.curation.shards import read_rows
from gamegen.models.checkpoint import read_card, save_checkpoint
from gamegen.models.inverse_dynamics import InverseDynamics, expected_deg, load_inverse_dynamics
from gamegen.training.config import InverseDynamicsLossConfig
from gamegen.training.objectives import Metrics, Objective
from gamegen.training.recorded import RecordedBatch, recorded_actions


def set_thresholds(folder: Path, data: Path) -> None:
    """Gives a checkpoint the thresholds that are best on the validation split of curated shards."""
    model = load_inverse_dynamics(folder)
    probabilities, held = [], []
    for row in read_rows(data, splits=["validation"]):
        probabilities.append(model.predict(decode_clip(row["video"])).keys)
        held.append(recorded_actions(row)[0])
    thresholds = choose_thresholds(np.concatenate(probabilities), np.concatenate(held))
    config = replace(model.config, key_thresholds=thresholds)
    save_checkpoint(folder, config, model.state_dict(), read_card(folder))


class InverseDynamicsObjective(Objective):
    """The negative log-likelihood of a step's keys and turns (in nats), on maps with a little noise."""

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
        keys, camera = self.model(self._shaken(batch.maps, generator).to(device))
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

    def _shaken(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """Maps with noise, as much as it happens to be for each window."""
        amount = self.config.map_noise * torch.rand((len(maps), 1, 1, 1, 1), generator=generator)
        return maps + amount * torch.randn(maps.shape, generator=generator)

    @torch.inference_mode()
    def sheet(self, batch: RecordedBatch) -> np.ndarray:
        """For each of four windows a line a key and one for the yaw, along time: truth above, guess below."""
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
    """One line of grey squares for each key and one for the turn, where mid-grey is none; uint8."""
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
    """The thresholds, one a key, of the highest micro-F1 over `(N, keys)` probabilities and truth.

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
