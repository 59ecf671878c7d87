"""The `motion` stage: trains the motion network on optical flow and on the error of the warped frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gamegen.constants import SIZE_MULTIPLE
from gamegen.models.configs import named_config
from gamegen.models.counts import motion_flops
from gamegen.models.folding import to_pixels
from gamegen.models.model import Model, ModelConfig
from gamegen.models.motion import FINE, FRONT_PLACES, Motion, MotionConfig
from gamegen.models.sampling import SamplingConfig
from gamegen.models.warping import inside, resize_flow, warp
from gamegen.training.flops import FORWARD_AND_BACKWARD, BatchCost
from gamegen.training.motion_windows import MotionBatch, MotionWindows
from gamegen.training.objectives.objective import Metrics, Objective
from gamegen.training.objectives.reconstruction import gradient_l1
from gamegen.training.stages.world_model import WorldModelStage

MOVING = 1e-3
"""Mean squared change over a chunk, of values in [0, 1], from which on a moment counts as moving."""
_EXAMPLES = 24
"""Micro-batches that tell where something stands still in front of the camera."""
_TURNS_PX, _STILL_PX = 4.0, 0.5
"""Median flow over four frames from which on the camera moves, and that of what stands still meanwhile."""
_LEAST_MOVES, _LEAST_SHARE = 8, 0.05
"""Windows in which the camera must move, and share of them in which a place must stand still to count."""
_USUAL_WAY, _USUAL_INVERSE_DEPTH = 0.4, 0.2
"""Way of the camera in a chunk and inverse depth, in the recorded unit of length, at which errors are judged."""


@dataclass(frozen=True, kw_only=True)
class MotionLossConfig:
    """Weights of the motion network's losses.

    The end-point error of the flow, on places of 4, 8 and 16 pixels, counts `flow_weight` at first and
    `final_flow_weight` at the end. To the L1 of the warped frames, where the last frame is what they come from, come
    `gradient_weight` times that of their gradients, `error_weight` times the likelihood of that error by the
    network's own estimate, `new_weight` times the cross-entropy of what is newly seen, and `smooth_weight` times the
    flow's own gradients. Where depth and pose are known, `depth_weight` times the error of the inverse depth and
    `camera_weight` times that of the camera's motion come to it.

    In a share `soft_windows` of the windows the network is shown softened frames, as worlds in play are softer than
    footage; what is moved stays sharp.
    """

    flow_weight: float = 0.15
    final_flow_weight: float = 0.045
    gradient_weight: float = 0.5
    error_weight: float = 0.05
    new_weight: float = 0.02
    smooth_weight: float = 0.01
    depth_weight: float = 0.1
    camera_weight: float = 0.1
    soft_windows: float = 0.4


@dataclass(frozen=True, kw_only=True)
class MotionStage(WorldModelStage):
    """Trains the motion network of a model, and nothing else of it; a model without one gets that of `motion_model`."""

    stage: Literal["motion"] = "motion"
    shards: ClassVar[Literal["curated", "encoded"]] = "curated"
    motion_model: MotionConfig = field(default_factory=MotionConfig)
    motion_loss: MotionLossConfig = field(default_factory=MotionLossConfig)

    def start(self, init: Path | str | None, data: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
        if init is None:
            sizes = replace(named_config(self.model), foundation=None, instructnet=None)
            return replace(sizes, sampling=SamplingConfig(), motion=self.motion_model), {}
        config, weights = self.load_init(init)
        return replace(config, motion=config.motion or self.motion_model), weights

    def windows(self, model: ModelConfig) -> MotionWindows:
        return MotionWindows()

    def initialise(self, objective: Objective, example: Callable[[int], MotionBatch], is_new: bool) -> None:
        """Sets the places where something may stand still in front of the camera."""
        assert isinstance(objective, MotionObjective)
        batch = example(_EXAMPLES)
        found = still_places(batch.flow[:, -1], batch.trusted[:, -1], batch.is_mirrored > 0)
        objective.network.may_stand_still.copy_(found)

    def objective(self, model: Model) -> MotionObjective:
        return MotionObjective(model, self.motion_loss)

    def batch_cost(self, model: ModelConfig, batch: MotionBatch) -> BatchCost:
        """Cost of a batch; its tokens are those of the chunk that is predicted."""
        B, _, height, width = batch.last.shape
        assert model.motion is not None
        flops = FORWARD_AND_BACKWARD * B * motion_flops(model.motion, height, width)
        return BatchCost(B, B * (height // SIZE_MULTIPLE) * (width // SIZE_MULTIPLE), float(flops))


class MotionObjective(Objective):
    """End-point error against optical flow, and the error of the warped frames."""

    model: Model

    def __init__(self, model: Model, config: MotionLossConfig) -> None:
        assert model.motion is not None
        self.model, self.network, self.config = model, model.motion, config

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"motion": self.network}

    def loss(self, batch: MotionBatch, generator: torch.Generator, progress: float) -> tuple[Tensor, Metrics]:
        batch = batch.to(self.model.device)
        seen = self._softened(batch, generator) if torch.is_grad_enabled() else batch
        motion = self._motion(seen)
        flow = motion.flow_in_pixels()
        warped = warp(batch.last, flow, "bilinear")
        endpoint_px = (motion.flow - batch.flow).norm(dim=2) * batch.trusted
        config = self.config
        flow_weight = config.flow_weight + progress * (config.final_flow_weight - config.flow_weight)
        loss = (
            flow_weight * flow_distance(motion.flow, batch.flow, batch.trusted)
            + self._picture_loss(warped, batch.frames, flow)
            + config.error_weight * _estimate_loss(motion.log_error, warped, batch.frames)
            + config.new_weight * F.binary_cross_entropy_with_logits(motion.newly_seen, 1 - batch.trusted)
            + config.smooth_weight * gradient_l1(motion.flow)
            + config.depth_weight * depth_distance(motion, batch)
            + config.camera_weight * camera_distance(motion, batch)
        )
        metrics = {"endpoint_px": endpoint_px.mean().item()}
        if torch.is_grad_enabled():
            return loss, metrics | gains_db(batch, {"": warped})
        # Figures of a validation: as in play, and beside what the optical flow itself would give.
        height, width = batch.last.shape[-2:]
        by_flow = warp(batch.last, resize_flow(batch.flow, height, width))
        return loss, metrics | gains_db(batch, {"": motion.warp(batch.last), "flow_": by_flow})

    def _motion(self, batch: MotionBatch) -> Motion:
        return self.network(batch.last, batch.before, batch.operations)

    def _softened(self, batch: MotionBatch, generator: torch.Generator) -> MotionBatch:
        """The batch with some windows' first two frames without their detail of less than 2 or 4 pixels."""
        B, _, height, width = batch.last.shape
        draws_B = torch.rand(B, generator=generator).to(self.model.device)
        frames = torch.stack([batch.before, batch.last], 1).flatten(0, 1)
        for part, cells in ((0.5, 2), (1.0, 4)):
            soft = F.interpolate(F.avg_pool2d(frames, cells), (height, width), mode="bilinear")
            is_soft = (draws_B < part * self.config.soft_windows) & (
                draws_B >= (part - 0.5) * self.config.soft_windows
            )
            frames = torch.where(is_soft.repeat_interleave(2)[:, None, None, None], soft, frames)
        before, last = frames.unflatten(0, (B, 2)).unbind(1)
        return replace(batch, before=before, last=last)

    def _picture_loss(self, warped: Tensor, frames: Tensor, flow: Tensor) -> Tensor:
        error = warped - frames
        return (error.abs().mean(2) * inside(flow)).mean() + self.config.gradient_weight * gradient_l1(error)

    @torch.inference_mode()
    def sheet(self, batch: MotionBatch) -> np.ndarray:
        """Contact sheet, a row each: the last frame, the chunk's last one as predicted, the truth, what is new, and
        how near things are."""
        batch = batch.to(self.model.device)
        motion = self._motion(batch)
        height, width = batch.last.shape[-2:]
        newly_seen = F.interpolate(motion.newly_seen[:, -1:].sigmoid(), (height, width))
        nearness = F.interpolate(motion.inverse_depth[:, None].sqrt(), (height, width))
        rows = [
            batch.last,
            motion.warp(batch.last)[:, -1],
            batch.frames[:, -1],
            2 * newly_seen.expand(-1, 3, -1, -1) - 1,
            2 * nearness.clamp(max=1).expand(-1, 3, -1, -1) - 1,
        ]
        return np.concatenate([np.concatenate(list(to_pixels(row[:6]).cpu().numpy()), 1) for row in rows])


def still_places(flow_Btqr: Tensor, trusted_Bqr: Tensor, is_mirrored_B: Tensor) -> Tensor:
    """Places where something stands still in front of a moving camera more often than elsewhere, 1 or 0.

    Flow in pixels leads to an earlier frame, and is trusted or not, 1 or 0. Places of mirrored windows are put back.
    Ones if the camera seldom moves.
    """
    length_Bqr = flow_Btqr.norm(dim=1)
    moves_B = length_Bqr.flatten(1).median(1).values > _TURNS_PX
    places = torch.ones(FRONT_PLACES, device=flow_Btqr.device)
    if moves_B.sum() < _LEAST_MOVES:
        return places
    still_Bqr = ((length_Bqr < _STILL_PX) & (trusted_Bqr > 0)).float()
    still_Bqr = torch.where(is_mirrored_B[:, None, None], still_Bqr.flip(-1), still_Bqr)
    still_qr = still_Bqr[moves_B].mean(0)
    share = F.adaptive_avg_pool2d(still_qr[None], FRONT_PLACES)
    is_usual = share >= (2 * share.median()).clamp_min(_LEAST_SHARE)
    # The edge of what is held moves a little.
    return F.max_pool2d(is_usual.float(), 3, 1, 1)[0]


def flow_distance(flow_BKtqr: Tensor, truth_BKtqr: Tensor, trusted_BKqr: Tensor) -> Tensor:
    """Mean logarithm of 1 + the end-point error in pixels, where the truth is trusted, on three grids.

    The logarithm lets a place that cannot be right count for little; coarse grids see long ways first.
    """
    distances = []
    weighted = torch.cat([(truth_BKtqr - flow_BKtqr) * trusted_BKqr[:, :, None], trusted_BKqr[:, :, None]], 2)
    for cells in (1, 2, 4):
        pooled = F.avg_pool2d(weighted.flatten(0, 1), cells)
        error, share = pooled[:, :2].abs().sum(1), pooled[:, 2]
        distances.append(torch.log1p(error / share.clamp_min(1e-3)).mul(share).mean())
    return torch.stack(distances).mean()


def depth_distance(motion: Motion, batch: MotionBatch) -> Tensor:
    """Mean logarithm of 1 + the error of the flow, in pixels, that comes of the inverse depth's on a usual way."""
    error_px = (motion.inverse_depth - batch.inverse_depth).abs() * _USUAL_WAY * batch.last.shape[-2]
    return _mean_of_tracked(torch.log1p(error_px), batch.is_tracked)


def camera_distance(motion: Motion, batch: MotionBatch) -> Tensor:
    """Mean logarithm of 1 + the error of the flow, in pixels, that comes of the camera's at a usual depth."""
    height = batch.last.shape[-2]
    turned_px = (motion.camera.rotation - batch.rotation).abs() * height
    moved_px = (motion.camera.translation - batch.translation).abs() * _USUAL_INVERSE_DEPTH * height
    return _mean_of_tracked(torch.log1p(turned_px), batch.is_tracked) + _mean_of_tracked(
        torch.log1p(moved_px), batch.is_tracked
    )


def _mean_of_tracked(values: Tensor, is_tracked_B: Tensor) -> Tensor:
    """Mean of values `(B, ...)` of the samples whose depth and pose are known, 0 without any."""
    by_sample = values.flatten(1).mean(1)
    return (by_sample * is_tracked_B).sum() / is_tracked_B.sum().clamp_min(1)


@torch.no_grad()
def gains_db(batch: MotionBatch, predictions: dict[str, Tensor]) -> Metrics:
    """Gain in PSNR of predicted frames `(B, K, 3, H, W)` over repeating the last one, in all moments and moving ones.

    The figures' names begin with those of the predictions.
    """
    copied = batch.last[:, None].expand_as(batch.frames)
    copy_mse = _squared_error(copied, batch.frames)
    moving = copy_mse.mean(1) > MOVING
    metrics: Metrics = {"copy_psnr_db": _psnr_db(copy_mse).mean().item()}
    for name, frames in predictions.items():
        gain = (_psnr_db(_squared_error(frames, batch.frames)) - _psnr_db(copy_mse)).mean(1)
        metrics[f"{name}gain_db"] = gain.mean().item()
        metrics[f"{name}moving_gain_db"] = (gain * moving).sum().item() / max(int(moving.sum()), 1)
    return metrics


def _squared_error(video: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of each frame, `(B, K)`, of values in [0, 1]."""
    return (video.clamp(-1, 1) - truth).square().mean((2, 3, 4)) / 4


def _psnr_db(squared_error: Tensor) -> Tensor:
    return -10 * torch.log10(squared_error.clamp_min(1e-6))


def _estimate_loss(log_error_BKqr: Tensor, warped: Tensor, frames: Tensor) -> Tensor:
    """Negative log-likelihood of the warped frames' error, which is Laplace distributed by the estimate."""
    error = F.avg_pool2d((warped - frames).abs().mean(2), FINE)
    return (error * (-log_error_BKqr).exp() + log_error_BKqr).mean()
