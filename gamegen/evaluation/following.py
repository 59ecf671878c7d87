"""Agreement of generated frames with the keys that were held, as read by inverse dynamics.

Real clips are continued under their own keys, and the keys and turns that inverse dynamics reads off the generated
frames are compared with those. It makes mistakes on real frames too: the counts on the true continuation are the
ceiling.
"""

from __future__ import annotations

import functools

import numpy as np

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import CAMERA_SCALE_DEG, MOVEMENT_KEYS
from gamegen.evaluation.action_scores import MIN_TURN_DEG
from gamegen.evaluation.samples import Arrays
from gamegen.models.inverse_dynamics import Actions, InverseDynamics, load_inverse_dynamics

NUM_KEYS = len(MOVEMENT_KEYS)
COUNTS = ("hits", "guessed", "held", "turned right", "turns")
CONTEXT_FRAMES = 16
"""True frames before a continuation that inverse dynamics sees too; what it reads there does not count."""


@functools.cache
def reader() -> InverseDynamics:
    """The shipped inverse dynamics model, loaded once a process."""
    return load_inverse_dynamics("idm")


def followed(before: np.ndarray, frames: np.ndarray, operations: np.ndarray) -> Arrays:
    """Counts (see `agreement`) of frames uint8 `(4 N, H, W, 3)` under operations `(N, 4, OPERATION_SIZE)`.

    `before` are the true frames before them.
    """
    context = before[-CONTEXT_FRAMES:]
    read = reader().predict(np.concatenate([context, frames]))
    steps = slice(len(context) - 1, None)
    shown = Actions(read.keys[steps], read.held[steps], read.yaw_deg[steps], read.pitch_deg[steps])
    return agreement(shown, operations.reshape(-1, operations.shape[-1]))


def agreement(read: Actions, operations: np.ndarray) -> Arrays:
    """Counts of agreement between the actions read and the operations `(T, OPERATION_SIZE)` held.

    By key `(keys,)`: `hits` (read and held), `guessed` (read) and `held`; `turns`, steps on which the camera truly
    turns, about each axis, and `turned right`, those of them on which it was read to turn to its true side.
    """
    held = operations[:, :NUM_KEYS] > 0.5
    true_deg = operations[:, NUM_KEYS:] * CAMERA_SCALE_DEG
    read_deg = np.stack([read.yaw_deg, read.pitch_deg], 1)
    side, read_side = _side(true_deg), _side(read_deg)
    return {
        "hits": (read.held & held).sum(0),
        "guessed": read.held.sum(0),
        "held": held.sum(0),
        "turned right": np.array(((side == read_side) & (side != 0)).sum()),
        "turns": np.array((side != 0).sum()),
    }


def precision(counts: Arrays, clips: np.ndarray, keys: slice | int = slice(None)) -> float:
    """Precision over some clips and keys: the share of the keys read that were held."""
    return _ratio(counts["hits"][clips][:, keys].sum(), counts["guessed"][clips][:, keys].sum())


def recall(counts: Arrays, clips: np.ndarray, keys: slice | int = slice(None)) -> float:
    """Recall over some clips and keys: the share of the keys held that were read."""
    return _ratio(counts["hits"][clips][:, keys].sum(), counts["held"][clips][:, keys].sum())


def f1(counts: Arrays, clips: np.ndarray, keys: slice | int = slice(None)) -> float:
    """Micro-F1 over some clips and keys, the harmonic mean of precision and recall of pooled counts."""
    hits, guessed, held = (counts[name][clips][:, keys].sum() for name in ("hits", "guessed", "held"))
    return _ratio(2 * hits, guessed + held)


def camera_sign(counts: Arrays, clips: np.ndarray) -> float:
    """Share of true turns over some clips that were read to go to their side."""
    return _ratio(counts["turned right"][clips].sum(), counts["turns"][clips].sum())


def num_chunks(num_frames: int, history_chunks: int, wanted: int) -> int:
    """Number of chunks that a clip can be continued for after its history, at most `wanted`."""
    return min(wanted, num_frames // FRAMES_PER_CHUNK - history_chunks)


def _side(turns_deg: np.ndarray) -> np.ndarray:
    return np.sign(turns_deg) * (np.abs(turns_deg) > MIN_TURN_DEG)


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0
