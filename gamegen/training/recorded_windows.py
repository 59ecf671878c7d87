"""Recorded operations beside the motion they caused: what inverse dynamics learns from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import MOVEMENT_KEYS
from gamegen.media.mp4 import read_mp4
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.folding import to_pixels
from gamegen.models.inverse_dynamics import InverseDynamicsConfig, motion_maps
from gamegen.models.model import Model
from gamegen.models.vae import encode_frames
from gamegen.training.feed import Row, WindowDataset
from gamegen.training.window_plan import Sample

LEFT_KEY, RIGHT_KEY = MOVEMENT_KEYS.index("a"), MOVEMENT_KEYS.index("d")
FLOW_RIGHT = 0
"""The channel of a motion map that changes its sign in a mirror."""


@dataclass(frozen=True, kw_only=True)
class InverseDynamicsLossConfig:
    """Augmentation of recorded clips and windows, so that inverse dynamics also learns on unsteady, generated frames.

    `redrawn_clips` of the clips pass through the autoencoder of the checkpoint `redrawn_by` with noise of up to
    `latent_noise` (standard deviations) on their latents. `disturbed_clips` of them are changed by up to this much:
    `gamma` (natural logarithm of the exponent), `blur_px`, `noise` a pixel and `shimmer` in patches, the last two as
    shares of the picture's contrast. All motion maps get noise of up to `map_noise`.
    `rare_windows` of the windows lie around a press of a key drawn evenly, because most of what is recorded is walking.
    """

    redrawn_by: str = "nano"
    redrawn_clips: float = 0.1
    latent_noise: float = 0.2
    disturbed_clips: float = 0.15
    gamma: float = 0.4
    blur_px: float = 1.2
    noise: float = 0.08
    shimmer: float = 0.08
    map_noise: float = 0.05
    rare_windows: float = 0.4


@dataclass(frozen=True)
class RecordedClip:
    """The T steps between a clip's T + 1 frames.

    `maps` float16 `(T, C, h, w)` of `motion_maps`, `keys` bool `(T, len(MOVEMENT_KEYS))`, `turns_deg` float32
    `(T, 2)`: yaw and pitch in degrees a frame.
    """

    maps: np.ndarray
    keys: np.ndarray
    turns_deg: np.ndarray

    def window(self, start: int, steps: int) -> RecordedClip:
        """Some neighbouring steps."""
        part = slice(start, start + steps)
        return RecordedClip(self.maps[part], self.keys[part], self.turns_deg[part])

    def mirrored(self) -> RecordedClip:
        """The clip in a mirror: left and right change places, in the picture, in the keys and in the turn."""
        maps, keys = self.maps[..., ::-1].copy(), self.keys.copy()
        maps[:, FLOW_RIGHT] *= -1
        keys[:, [LEFT_KEY, RIGHT_KEY]] = self.keys[:, [RIGHT_KEY, LEFT_KEY]]
        return RecordedClip(maps, keys, self.turns_deg * np.array([-1, 1], np.float32))


@dataclass(frozen=True)
class RecordedBatch:
    """`maps` float32 `(B, T, C, h, w)`, `keys` float32 `(B, T, keys)`, `turns_deg` float32 `(B, T, 2)`."""

    maps: Tensor
    keys: Tensor
    turns_deg: Tensor


def check_keys(row: Row) -> None:
    """Raises ValueError for a clip without keys."""
    if len(row["keys"]) != row["num_frames"]:
        raise ValueError(f"{row['clip_id']} has no keys: label it first (gamegen idm label --help)")


def recorded_actions(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Keys and turns of a clip's steps, as in `RecordedClip`: its last operation shows in none of its frames.

    Raises ValueError for a clip without keys.
    """
    check_keys(row)
    keys = np.array([[key in held for key in MOVEMENT_KEYS] for held in row["keys"]], bool)
    turns_deg = np.stack([row["yaw_deg"], row["pitch_deg"]], 1).astype(np.float32)
    return keys[:-1], turns_deg[:-1]


class RecordedWindows(WindowDataset):
    """Windows of recorded clips, half of them mirrored; `rare_windows` lie around a press of a key drawn evenly.

    Some clips are made as unsteady as what a model draws: which, depends on a clip's id alone.
    """

    length_column = "num_frames"

    def __init__(self, model: InverseDynamicsConfig, loss: InverseDynamicsLossConfig) -> None:
        self.model, self.loss = model, loss
        self._redrawer: Model | None = None

    def prepare(self, row: Row) -> RecordedClip:
        """One row, with `video` and the clip's columns."""
        frames = self._as_drawn(row["clip_id"], read_mp4(row["video"]))
        return RecordedClip(motion_maps(frames, self.model), *recorded_actions(row))

    def cut(self, clip: RecordedClip, sample: Sample, num_latents: int) -> RecordedClip:
        rng = sample.generator()
        steps = num_latents * FRAMES_PER_CHUNK
        start = sample.slot * steps + int(rng.integers(steps))
        pressed = np.flatnonzero(clip.keys.any(0))
        if rng.random() < self.loss.rare_windows and len(pressed):
            moments = np.flatnonzero(clip.keys[:, rng.choice(pressed)])
            start = int(rng.choice(moments)) - int(rng.integers(steps))
        window = clip.window(int(np.clip(start, 0, len(clip.maps) - steps)), steps)
        return window.mirrored() if rng.random() < 0.5 else window

    def collate(self, windows: list[RecordedClip]) -> RecordedBatch:
        return RecordedBatch(
            *(
                torch.from_numpy(np.stack([getattr(window, name) for window in windows])).float()
                for name in RecordedBatch.__dataclass_fields__
            )
        )

    def _as_drawn(self, clip_id: str, frames: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(list(hashlib.sha256(clip_id.encode()).digest()))
        share = rng.random()
        if share < self.loss.redrawn_clips:
            return self._redrawn(frames, rng)
        if share < self.loss.redrawn_clips + self.loss.disturbed_clips:
            return disturbed(frames, self.loss, rng)
        return frames

    @torch.inference_mode()
    def _redrawn(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Frames as the streaming decoder draws them from noisy latents; up to three at the end as they were."""
        # Loaded where it is needed: windows may be read in another process.
        self._redrawer = self._redrawer or load_checkpoint(self.loss.redrawn_by).model
        model = self._redrawer
        latents = torch.from_numpy(encode_frames(frames, model.vae)).float()
        amount = self.loss.latent_noise * rng.random()
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        latents = latents.to(model.device) + amount * model.std_C * noise.to(model.device)
        drawn = to_pixels(model.vae.decode_streaming(latents[None])[0]).cpu().numpy()
        return np.concatenate([drawn, frames[len(drawn) :]])


def disturbed(
    frames: np.ndarray, config: InverseDynamicsLossConfig, rng: np.random.Generator, patch_px: int = 12
) -> np.ndarray:
    """uint8 frames `(T, H, W, 3)` softer, lighter or darker, noisy and shimmering, one amount of each a clip."""
    gamma = np.exp(config.gamma * rng.uniform(-1, 1))
    tones = (255 * (np.arange(256) / 255) ** gamma).astype(np.float32)
    blur_px, noise, shimmer = rng.random(3) * (config.blur_px, config.noise, config.shimmer)
    contrast = frames.std()
    height, width = frames.shape[1:3]
    result = []
    for frame in frames:
        picture = tones[frame]
        if blur_px > 0:
            picture = cv2.GaussianBlur(picture, (0, 0), blur_px)
        coarse = rng.standard_normal((height // patch_px + 1, width // patch_px + 1), np.float32)
        waves = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        picture += contrast * shimmer * waves[..., None]
        picture += contrast * noise * rng.standard_normal(picture.shape, np.float32)
        result.append(picture.round().clip(0, 255).astype(np.uint8))
    return np.stack(result)
