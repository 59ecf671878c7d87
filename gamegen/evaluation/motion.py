"""Optical flow and tones of frames, and whether their motion is what held keys ask for.

Frames are uint8 `(T, H, W, 3)` RGB throughout.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np

KEYS: dict[str, set[str]] = {"left": {"left"}, "right": {"right"}, "forward": {"w"}, "still": set()}
"""The actions that are judged and the keys that ask for them."""
STILL_SPEED = 0.25
"""A world stands still if it moves by less than this share of its own speed when walking."""


def optical_flow(frames: np.ndarray) -> np.ndarray:
    """Dense flow between neighbouring frames, float32 `(T - 1, H, W, 2)` in pixels (Kroeger et al. 2016, DIS)."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([dis.calc(a, b, np.empty(0)) for a, b in itertools.pairwise(grey)])


def horizontal_flow_px(flow: np.ndarray) -> float:
    """Mean horizontal flow in pixels a frame; positive when the picture moves right (the camera turns left)."""
    return float(flow[..., 0].mean())


def expansion(flow: np.ndarray) -> float:
    """Growth of the picture from its centre, a share per frame: least-squares s of `flow = s * (place - centre)`."""
    _, height, width, _ = flow.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    # The mean flow is a turn of the camera, not a step forward.
    centred = flow - flow.mean((1, 2), keepdims=True)
    return float((centred[..., 0] * x + centred[..., 1] * y).mean() / (x**2 + y**2).mean())


def speed_px(flow: np.ndarray) -> float:
    """Mean length of the flow in pixels a frame."""
    return float(np.linalg.norm(flow, axis=-1).mean())


def detail(frames: np.ndarray) -> float:
    """Mean absolute gradient of luminance, in grey levels a pixel."""
    grey = luminance(frames)
    return float(np.abs(np.diff(grey, axis=1)).mean() + np.abs(np.diff(grey, axis=2)).mean())


def luminance(frames: np.ndarray) -> np.ndarray:
    """Rec. 601 luma, float32 `(T, H, W)`, 0 to 255."""
    return frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def brightness(frames: np.ndarray) -> float:
    """Mean luminance, 0 to 255."""
    return float(luminance(frames).mean())


def warmth(frames: np.ndarray) -> float:
    """Mean red minus mean blue as a share of the mean brightness: sand is warm, snow is not."""
    means = frames.reshape(-1, 3).mean(0)
    return float((means[0] - means[2]) / max(means.mean(), 1.0))


def colour(frames: np.ndarray) -> float:
    """Mean distance of each pixel's strongest from its weakest channel, 0 (grey) to 255."""
    return float((frames.max(-1).astype(np.float32) - frames.min(-1)).mean())


def motion_of(action: str, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Optical flow of frames under an action: horizontal and total speed (px a frame) and expansion."""
    flow = optical_flow(frames)
    return {
        f"{action} flow px": np.array(horizontal_flow_px(flow)),
        f"{action} speed px": np.array(speed_px(flow)),
        f"{action} expansion": np.array(expansion(flow)),
    }


def obeyed(motions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Bool `(N,)` by action: worlds that did what it asks, from the stacked `motion_of` of all motion."""
    return {
        "left": motions["left flow px"] > 0,
        "right": motions["right flow px"] < 0,
        "forward": motions["forward expansion"] > 0,
        "still": motions["still speed px"] < STILL_SPEED * motions["forward speed px"],
    }
