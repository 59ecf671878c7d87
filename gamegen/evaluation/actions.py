"""Does the picture move as the keys say? Here by optical flow.

What is asked of each action, and how it is told from frames, is in this file alone.
"""

from __future__ import annotations

import numpy as np

from gamegen.evaluation import motion

KEYS: dict[str, set[str]] = {"left": {"left"}, "right": {"right"}, "forward": {"w"}, "still": set()}
"""The actions that are judged and the keys that ask for them."""
STILL_SPEED = 0.25
"""A world stands still if it moves by less than this share of its own speed when walking."""


def motion_of(action: str, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Flow of frames uint8 `(T, H, W, 3)` under an action: horizontal and total speed (px a frame) and expansion."""
    flow = motion.optical_flow(frames)
    return {
        f"{action} flow px": np.array(motion.horizontal_flow_px(flow)),
        f"{action} speed px": np.array(motion.speed_px(flow)),
        f"{action} expansion": np.array(motion.expansion(flow)),
    }


def obeyed(motions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Whether each world did what each action asks, bool `(N,)` by action, from all actions' `motion_of` stacked."""
    return {
        "left": motions["left flow px"] > 0,
        "right": motions["right flow px"] < 0,
        "forward": motions["forward expansion"] > 0,
        "still": motions["still speed px"] < STILL_SPEED * motions["forward speed px"],
    }
