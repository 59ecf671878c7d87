"""Pictures that say what a video is to do without saying how it looks: edges, motion and poses (GameGen-X, §3.3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np
from torch import Tensor

from gamegen.controls import FPS, FRAMES_PER_CHUNK
from gamegen.models.checkpoint import Model
from gamegen.session_log import VideoPrompt
from gamegen.uploaded_video import MAX_PROMPT_BYTES, MAX_PROMPT_S, read_frames

EDGE_THRESHOLDS = (60, 160)
FULL_MOTION_PX = 8.0
"""Motion of this many pixels a frame is shown at full brightness."""
MAX_CHUNKS = round(MAX_PROMPT_S * FPS) // FRAMES_PER_CHUNK
"""The longest that a video prompt in play may be."""


def canny(frames: np.ndarray) -> np.ndarray:
    """White edges on black (Canny 1986) of uint8 frames `(T, H, W, 3)`, in the same shape."""
    edges = [cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), *EDGE_THRESHOLDS) for frame in frames]
    return np.repeat(np.stack(edges)[..., None], 3, -1)


def motion(frames: np.ndarray) -> np.ndarray:
    """Optical flow from the frame before as colour: direction is hue, speed is brightness; the first frame is black."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    pictures = [np.zeros_like(frames[0])]
    for before, after in itertools.pairwise(grey):
        flow = dis.calc(before, after, np.empty(0))
        speed, angle_deg = cv2.cartToPolar(flow[..., 0], flow[..., 1], angleInDegrees=True)
        brightness = np.clip(speed / FULL_MOTION_PX, 0, 1) * 255
        hue = np.stack([angle_deg / 2, np.full_like(speed, 255), brightness], -1).astype(np.uint8)
        pictures.append(cv2.cvtColor(hue, cv2.COLOR_HSV2RGB))
    return np.stack(pictures)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"canny": canny, "motion": motion}
"""Video prompts that are made from any video, by name."""
POSE = "pose"
"""A video prompt that comes as it is: a video of drawn poses."""


def encode_video_prompt(
    model: Model, frames: np.ndarray, kind: str, size: tuple[int, int] | None = None
) -> Tensor:
    """What a world is to follow, for `WorldEngine.prompt_video`: `(T, C, h, w)` float32, normalised, on the CPU.

    `frames` uint8 `(F, H, W, 3)` at 24 frames a second: a video whose edges (`canny`) or motion (`motion`) count, or
    one of drawn poses (`pose`). T is F // 4, a rest is left out. Raises ValueError for another kind, frames that are
    not those of a world of `size` (width and height in pixels, the model's own by default), fewer than 4 or more than
    `MAX_PROMPT_S` of them.
    """
    if kind not in (*KINDS, POSE):
        raise ValueError(f"video prompt {kind!r}: use one of {', '.join((*KINDS, POSE))}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"expected uint8 frames (F, H, W, 3), got {frames.dtype} {frames.shape}")
    width, height = size or (model.config.width, model.config.height)
    if frames.shape[1:3] != (height, width):
        raise ValueError(
            f"the video prompt is {frames.shape[2]}x{frames.shape[1]}: resize it to {width}x{height}"
        )
    most = MAX_CHUNKS * FRAMES_PER_CHUNK
    if not FRAMES_PER_CHUNK <= len(frames) <= most:
        raise ValueError(
            f"the video prompt has {len(frames)} frames: it takes {FRAMES_PER_CHUNK} to {most} "
            f"({MAX_PROMPT_S:g} seconds)"
        )
    pictures = frames if kind == POSE else KINDS[kind](frames)
    return model.encode(pictures)


def read_video_prompt(model: Model, prompt: VideoPrompt, size: tuple[int, int] | None = None) -> Tensor:
    """The same of a file, at 24 frames a second, scaled and cropped. Raises ValueError for one that cannot be read."""
    wanted = size or (model.config.width, model.config.height)
    most = MAX_CHUNKS * FRAMES_PER_CHUNK
    frames = read_frames(prompt.file, wanted, most, MAX_PROMPT_BYTES, MAX_PROMPT_S)
    return encode_video_prompt(model, frames, prompt.kind, wanted)
