"""Pictures of a video prompt: edges, motion or poses, which leave a world's look open (GameGen-X, §3.3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np

from gamegen.constants import FPS, FRAMES_PER_CHUNK
from gamegen.media.untrusted import MAX_PROMPT_S

EDGE_THRESHOLDS = (60, 160)
FULL_MOTION_PX = 8.0
"""Motion of this many pixels a frame is shown at full brightness."""
MAX_PROMPT_CHUNKS = round(MAX_PROMPT_S * FPS) // FRAMES_PER_CHUNK
"""Chunks of the longest video prompt in play."""


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
