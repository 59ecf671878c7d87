"""Inverse dynamics: predicts held keys and camera turns from frames alone.

Optical flow tells how the picture moved between two frames; a small network reads the coarse flow of each such step
and of the steps around it, before and after (Baker et al. 2022, "Video PreTraining", section 3: inferring an
action from its result is far easier than predicting it, because the future is visible). Flow, unlike pixels,
looks much the same in every game and in frames that a model has drawn. The model judges whether a generated world
follows the keys, and labels footage that has no key log.

Shape suffixes: B batch, T steps between frames, C channels, H and W cells of the coarse flow, D features.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gamegen.config import build
from gamegen.controls import MOVEMENT_KEYS
from gamegen.device import default_device
from gamegen.media.frames import resize_to
from gamegen.models import checkpoint

MAP_CHANNELS = 6
"""Channels of each cell: flow to the right and down, residual of the flow, change, brightness, contrast."""
CELL_PX = 8
FLOW_SCALE_PX = 4.0
GREY_MEAN, GREY_DEVIATION = 128.0, 48.0
MAX_MAP = 3.0
"""Clipping value of motion maps, because failed flow has extreme values."""
DARK = 2.5
"""Contrast, in grey levels, below which frames are hardly stretched: at night only noise would grow."""


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """Size in pixels at which motion is computed, and the network's widths.

    `hidden` units read the coarse flow (cells of `CELL_PX`) of one step and output `features` of it; the temporal
    part then sees `sum(dilations)` steps to either side. Camera turns are a distribution over `camera_bins_deg`
    (degrees a frame, rising). A key counts as held from its `key_thresholds` on, one for each of `MOVEMENT_KEYS`,
    chosen on validation footage.
    """

    width: int = 160
    height: int = 96
    hidden: int = 320
    features: int = 160
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    camera_bins_deg: tuple[float, ...] = (-6.0, -2.4, -1.2, 0.0, 1.2, 2.4, 6.0)
    key_thresholds: tuple[float, ...] = (0.5,) * len(MOVEMENT_KEYS)

    @classmethod
    def tiny(cls) -> InverseDynamicsConfig:
        """For tests: a few thousand weights."""
        return cls(width=64, height=40, hidden=16, features=16, dilations=(1, 2))

    @property
    def cells(self) -> tuple[int, int]:
        """(columns, rows) of the coarse flow."""
        return self.width // CELL_PX, self.height // CELL_PX


@dataclass(frozen=True)
class Actions:
    """Predicted operations: entry i is the one between frames i and i + 1.

    `keys` float32 `(T, len(MOVEMENT_KEYS))` probabilities, `held` bool of the same shape (the thresholds applied),
    `yaw_deg` and `pitch_deg` float32 `(T,)` degrees a frame, positive to the right and down.
    """

    keys: np.ndarray
    held: np.ndarray
    yaw_deg: np.ndarray
    pitch_deg: np.ndarray

    def names(self) -> list[list[str]]:
        """Sorted names of the held keys of each step, as in the clip table."""
        return [
            sorted(key for key, is_held in zip(MOVEMENT_KEYS, row, strict=True) if is_held)
            for row in self.held
        ]


class InverseDynamics(nn.Module):
    """Layers over the coarse flow of a step, then over time; one head for keys and one for the camera.

    The layers over flow are dense: what moves where on the screen is what matters, and cells are few.
    """

    bins_deg: Tensor

    def __init__(self, config: InverseDynamicsConfig) -> None:
        super().__init__()
        self.config = config
        columns, rows = config.cells
        self.spatial = nn.Sequential(
            nn.Linear(MAP_CHANNELS * rows * columns, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.features),
        )
        self.temporal = nn.Sequential(*(TemporalBlock(config.features, d) for d in config.dilations))
        self.norm = nn.LayerNorm(config.features)
        self.keys = nn.Linear(config.features, len(MOVEMENT_KEYS))
        self.camera = nn.Linear(config.features, 2 * len(config.camera_bins_deg))
        self.register_buffer("bins_deg", torch.tensor(config.camera_bins_deg), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def forward(self, maps_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Motion maps to key logits `(B, T, keys)` and camera logits `(B, T, 2, bins)` (yaw, then pitch)."""
        flat = rearrange(maps_BTCHW.clamp(-MAX_MAP, MAX_MAP), "b t c h w -> b t (c h w)")
        mixed_BTD = self.norm(self.temporal(self.spatial(flat)))
        return self.keys(mixed_BTD), rearrange(
            self.camera(mixed_BTD), "b t (turn bin) -> b t turn bin", turn=2
        )

    @torch.inference_mode()
    def predict(self, frames: np.ndarray) -> Actions:
        """The operations between uint8 frames `(T + 1, H, W, 3)` of any size.

        Raises ValueError for fewer than two frames.
        """
        if len(frames) < 2:
            raise ValueError(f"{len(frames)} frames contain no motion: give at least two")
        maps = torch.from_numpy(motion_maps(frames, self.config)).to(self.device)
        keys, camera = self(maps[None].float())
        probabilities = keys[0].float().sigmoid().cpu().numpy()
        turns_deg = expected_deg(camera[0].float(), self.bins_deg).cpu().numpy()
        thresholds = np.array(self.config.key_thresholds, np.float32)
        return Actions(probabilities, probabilities >= thresholds, turns_deg[:, 0], turns_deg[:, 1])


class TemporalBlock(nn.Module):
    """LayerNorm, a convolution over three steps `dilation` apart and a linear layer, added to what came in."""

    def __init__(self, features: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(features)
        self.mix = nn.Linear(3 * features, features)
        self.out = nn.Linear(features, features)

    def forward(self, x_BTD: Tensor) -> Tensor:
        T, d = x_BTD.shape[1], self.dilation
        padded = F.pad(self.norm(x_BTD), (0, 0, d, d))
        around = torch.cat([padded[:, start : start + T] for start in (0, d, 2 * d)], -1)
        return x_BTD + self.out(F.silu(self.mix(around)))


def motion_maps(frames: np.ndarray, config: InverseDynamicsConfig) -> np.ndarray:
    """Motion maps of the steps between uint8 frames `(T + 1, H, W, 3)`, float16 `(T, MAP_CHANNELS, h, w)`.

    Frames are cropped to the config's aspect and scaled to its size. Optical flow as in Kroeger et al. 2016 (DIS).
    """
    grey = [even_grey(frame) for frame in resize_to(frames, (config.width, config.height))]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return np.stack([_step_map(dis, *pair, config.cells) for pair in itertools.pairwise(grey)])


def even_grey(frame: np.ndarray) -> np.ndarray:
    """A frame `(H, W, 3)` as uint8 grey `(H, W)`, normalised to one brightness and contrast."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    even = (grey - grey.mean()) * (GREY_DEVIATION / (grey.std() + DARK)) + GREY_MEAN
    return even.clip(0, 255).astype(np.uint8)


def _step_map(
    dis: cv2.DISOpticalFlow, before: np.ndarray, after: np.ndarray, cells: tuple[int, int]
) -> np.ndarray:
    flow = dis.calc(before, after, np.empty(0))
    rows, columns = np.indices(before.shape, np.float32)
    moved_back = cv2.remap(
        after, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    start, change = before.astype(np.float32), after.astype(np.float32) - before
    pixels = [
        flow[..., 0] / FLOW_SCALE_PX,
        flow[..., 1] / FLOW_SCALE_PX,
        np.abs(moved_back - start) / GREY_DEVIATION,
        change / GREY_DEVIATION,
        (start - GREY_MEAN) / GREY_DEVIATION,
        np.abs(cv2.Laplacian(start, cv2.CV_32F)) / GREY_DEVIATION,
    ]
    return np.stack([cv2.resize(p, cells, interpolation=cv2.INTER_AREA) for p in pixels]).astype(np.float16)


def expected_deg(logits: Tensor, bins_deg: Tensor) -> Tensor:
    """Mean of the distribution over bins `(..., bins)`, degrees a frame."""
    return (logits.softmax(-1) * bins_deg).sum(-1)


def load_inverse_dynamics(
    name_or_path: str | Path = "idm", device: torch.device | str | None = None
) -> InverseDynamics:
    """The model of a checkpoint folder or of a shipped name, in evaluation mode.

    Raises CheckpointError if a file is missing, damaged or does not fit its config.
    """
    folder = checkpoint.resolve(name_or_path)
    checkpoint.verify(folder, checkpoint.read_card(folder))
    file = folder / checkpoint.CONFIG_FILE
    model = InverseDynamics(build(InverseDynamicsConfig, checkpoint.read_json(file), str(file)))
    checkpoint.load_weights(model, folder)
    return model.to(torch.device(device) if device else default_device()).eval()
