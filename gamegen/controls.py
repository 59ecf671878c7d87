"""A player's controls: the keys held and the camera motion of a frame.

One chunk (a latent frame) covers four video frames, so the model reads a chunk's operations as a
`(4, OPERATION_SIZE)` array: one column for each key of `MOVEMENT_KEYS`, then yaw and pitch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gamegen.constants import FRAMES_PER_CHUNK

MOVEMENT_KEYS = ("w", "a", "s", "d", "space", "e", "q")
"""Walk, strafe, jump (space), attack (e) and sneak (q): one column each of an operation vector."""
CAMERA_KEYS = ("left", "right", "up", "down")
"""Arrow keys: they turn the camera by `KEY_TURN_DEG` a frame (`KEY_PITCH_DEG` up and down)."""
KEYS = MOVEMENT_KEYS + CAMERA_KEYS

KEY_TURN_DEG = 2.4
"""Yaw of a held arrow key in degrees a frame; recorded footage turns at this and at half this speed."""
KEY_PITCH_DEG = 1.2
CAMERA_SCALE_DEG = 2.4
"""Camera deltas are divided by this before they enter the model."""
MAX_CAMERA_DEG = 6.0

OPERATION_SIZE = len(MOVEMENT_KEYS) + 2


@dataclass(frozen=True)
class Control:
    """Keys held and camera turn during one chunk (four frames).

    `yaw_deg` (positive turns right) and `pitch_deg` (positive looks down) are degrees a frame and come on
    top of held arrow keys; each is clipped to ±`MAX_CAMERA_DEG`. Raises ValueError for an unknown key.
    """

    keys: frozenset[str] = frozenset()
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0

    def __init__(self, keys: Iterable[str] = (), yaw_deg: float = 0.0, pitch_deg: float = 0.0) -> None:
        object.__setattr__(self, "keys", frozenset(keys))
        object.__setattr__(self, "yaw_deg", float(yaw_deg))
        object.__setattr__(self, "pitch_deg", float(pitch_deg))
        unknown = sorted(self.keys - set(KEYS))
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}: use some of {' '.join(KEYS)}")

    def camera_deg(self) -> tuple[float, float]:
        """Total (yaw, pitch) in degrees a frame, held arrow keys included."""
        yaw = self.yaw_deg + KEY_TURN_DEG * (("right" in self.keys) - ("left" in self.keys))
        pitch = self.pitch_deg + KEY_PITCH_DEG * (("down" in self.keys) - ("up" in self.keys))
        return _clipped(yaw), _clipped(pitch)

    def operations(self) -> np.ndarray:
        """The chunk's operation vectors, float32 `(4, OPERATION_SIZE)`."""
        yaw, pitch = self.camera_deg()
        return operation_array([self.keys] * FRAMES_PER_CHUNK, [yaw] * 4, [pitch] * 4)


def _clipped(turn_deg: float) -> float:
    return max(-MAX_CAMERA_DEG, min(MAX_CAMERA_DEG, turn_deg))


def operation_array(
    keys: Iterable[Iterable[str]], yaw_deg: Iterable[float], pitch_deg: Iterable[float]
) -> np.ndarray:
    """Per-frame operation vectors, float32 `(frames, OPERATION_SIZE)`; camera in `CAMERA_SCALE_DEG`."""
    held = np.array([[key in frame for key in MOVEMENT_KEYS] for frame in map(set, keys)], np.float32)
    camera = np.stack([np.asarray(yaw_deg, np.float32), np.asarray(pitch_deg, np.float32)], 1)
    return np.concatenate([held.reshape(-1, len(MOVEMENT_KEYS)), camera / CAMERA_SCALE_DEG], 1)


def parse_script(script: str) -> list[frozenset[str]]:
    """Parses the keys of every frame from a script such as `w*24,w+d*24,none*12`.

    Comma-separated `KEYS*FRAMES`, keys joined by `+`, `none` for no key.
    Raises ValueError naming the bad part.
    """
    frames: list[frozenset[str]] = []
    for part in filter(None, (p.strip() for p in script.split(","))):
        names, star, count = part.partition("*")
        if not star or not count.strip().isdigit() or int(count) < 1:
            raise ValueError(f"cannot read {part!r}: write KEYS*FRAMES, for example w+d*24")
        keys = frozenset() if names.strip() == "none" else frozenset(k.strip() for k in names.split("+"))
        frames += [Control(keys).keys] * int(count)
    if not frames:
        raise ValueError("the key script is empty: write for example w*24,left*24")
    return frames


def chunk_controls(script: list[frozenset[str]]) -> list[Control]:
    """Controls of a script, one for each chunk; the keys of a partial last chunk are held to its end.

    Raises ValueError where keys change inside a chunk.
    """
    for frame in range(1, len(script)):
        if frame % FRAMES_PER_CHUNK and script[frame] != script[frame - 1]:
            raise ValueError(
                f"keys change at frame {frame}, inside a chunk: a session has one control for each "
                f"{FRAMES_PER_CHUNK} frames, so use multiples of {FRAMES_PER_CHUNK}, for example w*24"
            )
    return [Control(keys) for keys in script[::FRAMES_PER_CHUNK]]
