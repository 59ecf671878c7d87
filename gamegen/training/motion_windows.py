"""Windows of frames with their operations and their optical flow: what the motion network learns from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import MOVEMENT_KEYS, OPERATION_SIZE, operation_array
from gamegen.footage.depth import DEPTH_SCALE
from gamegen.footage.geometry import CameraTrack
from gamegen.media.mp4 import read_mp4
from gamegen.models.folding import from_pixels
from gamegen.models.motion import FINE, PAST_OPERATIONS
from gamegen.training.feed import Row, WindowDataset
from gamegen.training.recorded_windows import LEFT_KEY, RIGHT_KEY, check_keys
from gamegen.training.window_plan import Sample

WINDOW_FRAMES = FRAMES_PER_CHUNK + 2
"""Frames of a window: the two that the network sees, and the chunk's own."""
_YAW = len(MOVEMENT_KEYS)
"""Column of an operation that is the turn to the right."""
_TRUSTED_ERROR = 20
"""Mean absolute difference, in steps of 8 bits, up to which a warped frame shows that its flow is right."""
_TRUSTED_SHARE = 0.5
_BEYOND = 255.0
_STILL_ERROR, _STILL_SHARE = 4, 0.5
"""Steps of 8 bits by which no flow must explain a pixel better than the true one does, for it to stand still."""
_TEXTURE = 8
"""Mean absolute Laplacian, in steps of 8 bits, from which a pattern is more than shading."""


@dataclass(frozen=True)
class PlayedClip:
    """Frames and operations of a clip, and its camera track where the game tells it.

    `frames` uint8 `(T, H, W, 3)`; `operations` float32 `(T, OPERATION_SIZE)`, that of a frame leading to the next one.
    A window has `PAST_OPERATIONS` more than frames from the third on, the last of which leads to its last frame.
    """

    frames: np.ndarray
    operations: np.ndarray
    track: CameraTrack | None = None

    @classmethod
    def from_row(cls, row: Row) -> PlayedClip:
        """The clip of a curated row. Raises ValueError for one without keys."""
        check_keys(row)
        operations = operation_array(row["keys"], row["yaw_deg"], row["pitch_deg"])
        return cls(read_mp4(row["video"]), operations, CameraTrack.from_row(row))

    def window(self, start: int, num_frames: int = WINDOW_FRAMES) -> PlayedClip:
        """Neighbouring frames; before a clip begins nothing is held."""
        before = np.zeros((PAST_OPERATIONS, OPERATION_SIZE), np.float32)
        operations = np.concatenate([before, self.operations])[start + 1 :]
        track = self.track and self.track.window(start, num_frames)
        return PlayedClip(
            self.frames[start : start + num_frames], operations[: PAST_OPERATIONS + num_frames - 2], track
        )

    def mirrored(self) -> PlayedClip:
        """The clip in a mirror: left and right change places, in the picture, in the keys and in the turn."""
        operations = self.operations.copy()
        operations[:, [LEFT_KEY, RIGHT_KEY]] = self.operations[:, [RIGHT_KEY, LEFT_KEY]]
        operations[:, _YAW] *= -1
        track = self.track and self.track.mirrored()
        return PlayedClip(np.ascontiguousarray(self.frames[:, :, ::-1]), operations, track)


@dataclass(frozen=True)
class MotionBatch:
    """A batch of windows; shape suffixes as in `gamegen/models/motion.py`.

    `before`, `last` `(B, 3, H, W)` and `frames` `(B, K, 3, H, W)` in [-1, 1]; `operations` `(B, NUM_OPERATIONS, 9)`.
    `flow` `(B, K, 2, q, r)` in pixels leads from each frame to the last one; `trusted` `(B, K, q, r)` is 1 where the
    last frame, so moved, shows what is there. Where `is_tracked` `(B,)` is 1, `inverse_depth` `(B, q, r)` is that of
    the last frame, and `rotation` `(B, K, 3, 3)` and `translation` `(B, K, 3)` are the camera's motion since.
    `is_mirrored` `(B,)` is 1 where left and right have changed places.
    """

    before: Tensor
    last: Tensor
    operations: Tensor
    frames: Tensor
    flow: Tensor
    trusted: Tensor
    is_tracked: Tensor
    inverse_depth: Tensor
    rotation: Tensor
    translation: Tensor
    is_mirrored: Tensor

    def to(self, device: torch.device) -> MotionBatch:
        """The batch on another device."""
        return MotionBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class MotionWindow:
    """One row of a `MotionBatch`, its frames not yet scaled."""

    clip: PlayedClip
    flow: np.ndarray
    trusted: np.ndarray
    is_mirrored: bool


class MotionWindows(WindowDataset):
    """Windows of recorded clips, half of them mirrored."""

    length_column = "num_frames"

    def prepare(self, row: Row) -> PlayedClip:
        """A curated row's frames and operations. Raises ValueError for a clip without keys."""
        return PlayedClip.from_row(row)

    def cut(self, clip: PlayedClip, sample: Sample, num_latents: int) -> MotionWindow:
        rng = sample.generator()
        num_frames = num_latents * FRAMES_PER_CHUNK
        start = sample.slot * num_frames + int(rng.integers(num_frames))
        window = clip.window(min(start, len(clip.frames) - WINDOW_FRAMES))
        is_mirrored = rng.random() < 0.5
        if is_mirrored:
            window = window.mirrored()
        return MotionWindow(window, *known_flow(window), is_mirrored)

    def collate(self, windows: list[MotionWindow]) -> MotionBatch:
        frames = from_pixels(_stacked(window.clip.frames for window in windows))
        cameras = zip(*(_known_camera(window) for window in windows), strict=True)
        is_tracked, inverse_depth, rotation, translation = (_stacked(part).float() for part in cameras)
        return MotionBatch(
            before=frames[:, 0],
            last=frames[:, 1],
            operations=_stacked(window.clip.operations for window in windows),
            frames=frames[:, 2:],
            flow=_stacked(window.flow for window in windows).float(),
            trusted=_stacked(window.trusted for window in windows).float(),
            is_tracked=is_tracked,
            inverse_depth=inverse_depth,
            rotation=rotation,
            translation=translation,
            is_mirrored=torch.tensor([window.is_mirrored for window in windows]).float(),
        )


def _stacked(arrays: Iterable[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


def _known_camera(window: MotionWindow) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Whether depth and pose are known, the last frame's inverse depth, the camera's rotations and translations."""
    track, K = window.clip.track, FRAMES_PER_CHUNK
    if track is None or not track.is_first_person[1:].all():
        places = window.flow.shape[-2:]
        return np.array(False), np.zeros(places), np.zeros((K, 3, 3)), np.zeros((K, 3))
    rotations, translations = zip(*(track.motion(2 + k, 1) for k in range(K)), strict=True)
    return np.array(True), track.inverse_depth[1] / DEPTH_SCALE, np.stack(rotations), np.stack(translations)


def known_flow(clip: PlayedClip) -> tuple[np.ndarray, np.ndarray]:
    """Flow of a window's chunk and where it is trusted, as in `MotionBatch`.

    Where depth and pose are known, it is the true flow, or none in the places that this explains better: what is held
    in the hand moves with the camera. Elsewhere it is optical flow. It is trusted where it explains the picture.
    """
    is_known = clip.track is not None and bool(clip.track.is_first_person[1:].all())
    flows, trusted = [], []
    for flow, error in (_true_flows if is_known else _searched_flows)(clip):
        flows.append(flow)
        trusted.append(_on_grid((error < _TRUSTED_ERROR).astype(np.float32)[..., None])[0] > _TRUSTED_SHARE)
    return np.stack(flows).astype(np.float16), np.stack(trusted)


def _true_flows(clip: PlayedClip) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Flow on the grid, by depth and pose, and the error `(H, W)` that it leaves, of each frame of the chunk."""
    assert clip.track is not None
    last, *frames = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames[1:])
    for k, frame in enumerate(frames):
        true = clip.track.flow(2 + k, 1)
        of_true = _error(last, frame, cv2.resize(true.transpose(1, 2, 0), last.shape[::-1]))
        of_none = _error(last, frame, np.zeros((*last.shape, 2), np.float32))
        # What came in from beyond the edges is new, unless a pattern stands there.
        is_still = (of_true - of_none > _STILL_ERROR) & ((of_true < _BEYOND) | _is_textured(frame))
        error = np.where(is_still, of_none, of_true)
        places = _on_grid(is_still.astype(np.float32)[..., None])[0] > _STILL_SHARE
        yield np.where(places, 0, true), error


def _is_textured(image: np.ndarray) -> np.ndarray:
    """Whether there is a pattern about each pixel, and more than shading."""
    return cv2.blur(np.abs(cv2.Laplacian(image, cv2.CV_32F)), (5, 5)) > _TEXTURE


def _searched_flows(clip: PlayedClip) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `_true_flows`, by dense inverse search (Kroeger et al. 2016).

    The search for a flow to the last frame starts from that of the frame before, one step on: it would not find a long
    way by itself.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    last, *frames = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames[1:])
    flow, before = np.zeros((*last.shape, 2), np.float32), last
    for frame in frames:
        step = search.calc(frame, before, np.zeros_like(flow))
        flow = search.calc(frame, last, step + _moved(flow, step))
        yield _on_grid(flow), _error(last, frame, flow)
        before = frame


def _error(last: np.ndarray, frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Mean absolute difference of a frame and the warped last one, in 5x5 pixels; `_BEYOND` outside the last one."""
    error = cv2.blur(np.abs(_moved(last, flow).astype(np.float32) - frame), (5, 5))
    is_inside = _moved(np.ones(last.shape, np.float32), flow, cv2.BORDER_CONSTANT) > 0.5
    return np.where(is_inside, error, _BEYOND).astype(np.float32)


def _moved(image: np.ndarray, flow: np.ndarray, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """Warps an image of one or two channels by a flow."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=border)


def _on_grid(image: np.ndarray) -> np.ndarray:
    """Means over places of `FINE` pixels a side, `(C, q, r)` of `(H, W, C)`."""
    return rearrange(image, "(q a) (r b) c -> c q r a b", a=FINE, b=FINE).mean((-1, -2))
