"""Motion network: predicts backward flow from each of the next four frames to the frame shown last.

Most of a frame is the one before it, seen from elsewhere. Moving those pixels keeps their detail, and leaves to the
diffusion model what is newly seen (the idea of DMVFN: Hu et al. 2023, section 3, and of GFFE: Wu et al. 2024). Flow
is that of a camera that moves, by the operations, through the last frame's depth (SfMLearner: Zhou et al. 2017,
section 3); what is in front of the camera and moves with it, a held tool or an avatar, stands still; a residual adds
the rest. Convolutions work at an eighth and then at a quarter of the picture's size.

Shape suffixes: B batch, K the chunk's frames, O operations, H and W pixels, h and w an eighth of them, q and r a
quarter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import CAMERA_SCALE_DEG, MOVEMENT_KEYS, OPERATION_SIZE
from gamegen.models.camera import CameraMotion, accumulate, backward_flow, turn_vectors
from gamegen.models.vae_layers import scale_initial_weights
from gamegen.models.warping import inside, resize_flow, warp

PAST_OPERATIONS = 12
"""Operations before the chunk's own that the network is given, half a second: how fast one walks or falls by now."""
NUM_OPERATIONS = PAST_OPERATIONS + FRAMES_PER_CHUNK
FINE = 4
"""Pixels along a side of a place for which the network says its motion."""
_COARSE = 8
_UNITS = 24
"""A residual of 1 inside the network is this part of the picture's height, 4 pixels of 96."""
_MAX_LOG_ERROR, _MIN_LOG_ERROR = 1.0, -5.0
_FOCAL = 0.5 / math.tan(math.radians(72 / 2))
"""Focal length over the picture's height that training begins with: a usual field of view."""
FRONT_PLACES = (12, 20)
"""Rows and columns in which places are told apart where something may stand still in front of the camera."""
_POOLED = (3, 4)
"""Rows and columns that the picture is averaged to for what belongs to the whole of it."""


@dataclass(frozen=True)
class MotionConfig:
    """Sizes of the motion network.

    `width` channels at an eighth of the picture's size in `num_blocks` residual blocks, `fine_width` at a quarter;
    `camera_width` for what belongs to the whole picture.
    """

    width: int = 64
    fine_width: int = 24
    num_blocks: int = 4
    camera_width: int = 128

    @classmethod
    def tiny(cls) -> MotionConfig:
        """For tests."""
        return cls(width=16, fine_width=8, num_blocks=1, camera_width=16)


class Motion(NamedTuple):
    """Predicted flow of a chunk, its error and newly seen places, on a grid of `FINE` pixels a side.

    `flow` `(B, K, 2, q, r)`: pixels to the right and down from a place to where its content was in the last frame.
    `log_error` `(B, K, q, r)`: natural logarithm of the mean absolute error of the warped frame, of values in
    [-1, 1]. `newly_seen` `(B, K, q, r)`: logit that the last frame does not show what is at a place.
    `scenery` `(B, K, 2, q, r)`: the part of the flow that comes from `camera` and from `inverse_depth` `(B, q, r)` of
    the last frame, that of the scenery behind a held tool. `moving` `(B, q, r)`: 0 where something stands still in
    front of the camera, 1 elsewhere.
    """

    flow: Tensor
    log_error: Tensor
    newly_seen: Tensor
    scenery: Tensor
    moving: Tensor
    inverse_depth: Tensor
    camera: CameraMotion

    def flow_in_pixels(self) -> Tensor:
        """The flow of every pixel, `(B, K, 2, H, W)`."""
        rows, columns = self.flow.shape[-2:]
        return resize_flow(self.flow, rows * FINE, columns * FINE)

    def warp(self, last_BCHW: Tensor) -> Tensor:
        """The chunk's frames `(B, K, C, H, W)` as the last one moved."""
        return warp(last_BCHW, self.flow_in_pixels())


class MotionBlock(nn.Module):
    """Residual block of two 3x3 convolutions, scaled and shifted by the operations, with its mean over all places."""

    def __init__(self, width: int, context_width: int = 0) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.modulate = nn.Linear(context_width, 2 * width) if context_width else None
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        self.mean = nn.Linear(width, width)
        scale_initial_weights(self.conv_out, 0.0)

    def forward(self, x_BChw: Tensor, context_BE: Tensor | None = None) -> Tensor:
        y = self.norm(x_BChw)
        if self.modulate is not None:
            scale, shift = self.modulate(context_BE)[:, :, None, None].chunk(2, 1)
            y = y * (1 + scale) + shift
        x = x_BChw + self.conv_out(F.silu(self.conv_in(F.silu(y))))
        return x + self.mean(x.mean((2, 3)))[:, :, None, None]


class CameraHead(nn.Module):
    """Predicts how the camera moves in a chunk, from the operations and from what the whole picture shows.

    Training begins with the turns that the operations ask for, without a way and at the usual field of view.
    """

    def __init__(self, width: int, context_width: int, camera_width: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, 16, 1)
        self.hidden = nn.Linear(16 * math.prod(_POOLED) + context_width, camera_width)
        # A turn's two angles and a way's three lengths a frame; the tilt, and the focal length.
        self.out = nn.Linear(camera_width, 5 * FRAMES_PER_CHUNK + 2)
        scale_initial_weights(self.out, 0.0)

    def forward(self, x_BChw: Tensor, context_BE: Tensor, operations_BON: Tensor) -> CameraMotion:
        pooled = F.adaptive_avg_pool2d(self.look(F.silu(x_BChw)), _POOLED).flatten(1)
        found = self.out(F.silu(self.hidden(torch.cat([pooled, context_BE], 1)))).float()
        steps, whole = found[:, :-2].unflatten(1, (FRAMES_PER_CHUNK, 5)), found[:, -2:]
        asked = operations_BON[:, -FRAMES_PER_CHUNK:, len(MOVEMENT_KEYS) :].float()
        yaw, pitch = (math.radians(CAMERA_SCALE_DEG) * (asked + steps[..., :2])).unbind(-1)
        turns = turn_vectors(yaw, pitch, whole[:, 0])
        return accumulate(turns, 0.1 * steps[..., 2:], _FOCAL * (0.2 * whole[:, 1]).exp())


class MotionNetwork(nn.Module):
    """Predicts the motion of a chunk from the last two frames and the operations.

    `may_stand_still` `(rows, columns)` is 1 in places of the picture where something in front of the camera may stand
    still, as the footage has it, 0 elsewhere: by its looks alone, a near bush is taken for a held tool.
    """

    may_stand_still: Tensor

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        width, fine = config.width, config.fine_width
        context = 128
        self.context = nn.Sequential(
            nn.Linear(NUM_OPERATIONS * OPERATION_SIZE, context),
            nn.SiLU(),
            nn.Linear(context, context),
            nn.SiLU(),
        )
        self.stem = nn.Conv2d(6 * FINE**2, fine, 3, padding=1)
        self.stem_block = MotionBlock(fine)
        self.down = nn.Conv2d(4 * fine, width, 1)
        self.trunk = nn.ModuleList(MotionBlock(width, context) for _ in range(config.num_blocks))
        self.camera = CameraHead(width, context, config.camera_width)
        self.up = nn.Conv2d(width, 4 * fine, 1)
        self.merge = nn.Conv2d(2 * fine, fine, 1)
        self.fine_block = MotionBlock(fine)
        self.fine_out = nn.Conv2d(fine, 2 + 4 * FRAMES_PER_CHUNK, 3, padding=1)
        scale_initial_weights(self.fine_out, 0.0)
        self.register_buffer("may_stand_still", torch.ones(FRONT_PLACES))
        self.register_load_state_dict_pre_hook(_add_places)
        # A quarter quicker on a CPU.
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def forward(self, last_BCHW: Tensor, before_BCHW: Tensor, operations_BON: Tensor) -> Motion:
        """Frames `(B, 3, H, W)` in [-1, 1], H and W multiples of 8, and operations `(B, NUM_OPERATIONS, 9)`, the
        last of which lead to the chunk's last frame."""
        context = self.context(operations_BON.flatten(1))
        frames = torch.cat([last_BCHW, 2 * (last_BCHW - before_BCHW)], 1)
        folded = F.pixel_unshuffle(frames, FINE).contiguous(memory_format=torch.channels_last)
        fine = self.stem_block(self.stem(folded))
        x = self.down(F.pixel_unshuffle(F.silu(fine), _COARSE // FINE))
        for block in self.trunk:
            x = block(x, context)
        upward = F.pixel_shuffle(self.up(F.silu(x)), _COARSE // FINE)
        fine = self.fine_block(self.merge(torch.cat([upward, fine], 1)))
        camera = self.camera(x, context, operations_BON)
        return _as_motion(self.fine_out(F.silu(fine)).float(), camera)


class PredictedMotion(NamedTuple):
    """Flow, error, depth and camera motion of a chunk as plain tensors: the fields of `Motion` that play reads."""

    flow: Tensor
    log_error: Tensor
    scenery: Tensor
    moving: Tensor
    inverse_depth: Tensor
    rotation: Tensor
    translation: Tensor
    focal: Tensor

    @property
    def camera(self) -> CameraMotion:
        """The camera's motion from the last frame to each of the chunk's."""
        return CameraMotion(self.rotation, self.translation, self.focal)

    def with_moving(self, moving_Bqr: Tensor) -> PredictedMotion:
        """The motion where other places stand still: the flow follows the scenery as far as `moving` says."""
        more = (moving_Bqr - self.moving)[:, None, None]
        return self._replace(moving=moving_Bqr, flow=self.flow + more * self.scenery)

    def row(self, number: int) -> PredictedMotion:
        """The motion of one row of the batch, `(1, ...)`."""
        return PredictedMotion(*(part[number : number + 1] for part in self))


class MotionPrediction(nn.Module):
    """A motion network as a function of three tensors to the tensors of a `PredictedMotion`."""

    def __init__(self, network: MotionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, last_BCHW: Tensor, before_BCHW: Tensor, operations_BON: Tensor) -> tuple[Tensor, ...]:
        found = self.network(last_BCHW, before_BCHW, operations_BON)
        motion = PredictedMotion(
            found.flow, found.log_error, found.scenery, found.moving, found.inverse_depth, *found.camera
        )
        may_stand = F.interpolate(self.network.may_stand_still[None, None], found.moving.shape[-2:])[0]
        return tuple(motion.with_moving(1 - may_stand * (1 - motion.moving)))


def _add_places(network: MotionNetwork, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Adds the buffer that weights of earlier versions lack."""
    if f"{prefix}stem.weight" in weights:
        weights.setdefault(f"{prefix}may_stand_still", torch.ones_like(network.may_stand_still))


def _as_motion(out_BCqr: Tensor, camera: CameraMotion) -> Motion:
    """Motion by what the network says of each place: its depth, whether it stands still, and the rest."""
    K = FRAMES_PER_CHUNK
    depth, still, residual, log_error, newly_seen = out_BCqr.split([1, 1, 2 * K, K, K], 1)
    inverse_depth = F.softplus(depth[:, 0] - 2.5)
    moving = (3.0 - still).sigmoid()
    residual = rearrange(residual, "b (k t) q r -> b k t q r", t=2) * (out_BCqr.shape[-2] / _UNITS)
    scenery = backward_flow(inverse_depth, camera)
    flow = moving[:, :, None] * scenery + residual
    beyond = 1 - inside(flow)
    return Motion(
        flow * FINE,
        (log_error - 2.5).clamp(_MIN_LOG_ERROR, _MAX_LOG_ERROR),
        newly_seen - 2.0 + 4.0 * beyond,
        scenery * FINE,
        moving[:, 0],
        inverse_depth,
        camera,
    )
