"""Scores of inverse dynamics against recorded actions: keys by precision and recall, turns by sign."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gamegen.controls import MOVEMENT_KEYS
from gamegen.media.mp4 import read_mp4
from gamegen.models.inverse_dynamics import Actions, InverseDynamics
from gamegen.training.recorded_windows import recorded_actions

MIN_TURN_DEG = 0.3
"""Smallest turn a frame, to one side, that counts as turning."""


@dataclass(frozen=True, kw_only=True)
class KeyScore:
    """Precision, recall and F1 (0 to 1; 0 where nothing was guessed or held); `held` counts the steps truly held."""

    precision: float
    recall: float
    f1: float
    held: int


@dataclass(frozen=True, kw_only=True)
class ActionScores:
    """Agreement over `steps` steps between frames.

    `micro` pools all keys. `yaw_sign` and `pitch_sign` are shares of the steps that truly turn (more than
    `MIN_TURN_DEG`) on which the guess turns to the same side, by as much at least; `camera_sign` pools the two.
    `still_camera` is the share of steps without a turn about either axis on which none was guessed.
    """

    steps: int
    keys: dict[str, KeyScore]
    micro: KeyScore
    camera_sign: float
    yaw_sign: float
    pitch_sign: float
    still_camera: float
    yaw_error_deg: float
    pitch_error_deg: float


def score_actions(guess: Actions, keys: np.ndarray, turns_deg: np.ndarray) -> ActionScores:
    """Compares a guess with the truth: `keys` bool `(T, keys)`, `turns_deg` `(T, 2)` (yaw, pitch)."""
    guessed_deg = np.stack([guess.yaw_deg, guess.pitch_deg], 1)
    side, guessed_side = _side(turns_deg), _side(guessed_deg)
    agrees, turns = side == guessed_side, side != 0
    error_deg = np.abs(guessed_deg - turns_deg).mean(0)
    return ActionScores(
        steps=len(keys),
        keys={name: key_score(guess.held[:, i], keys[:, i]) for i, name in enumerate(MOVEMENT_KEYS)},
        micro=key_score(guess.held, keys),
        camera_sign=_share(agrees, turns),
        yaw_sign=_share(agrees[:, 0], turns[:, 0]),
        pitch_sign=_share(agrees[:, 1], turns[:, 1]),
        still_camera=_share(agrees.all(1), ~turns.any(1)),
        yaw_error_deg=float(error_deg[0]),
        pitch_error_deg=float(error_deg[1]),
    )


def key_score(guessed: np.ndarray, held: np.ndarray) -> KeyScore:
    """The score of boolean arrays of one shape, pooled."""
    both, num_guessed, num_held = int((guessed & held).sum()), int(guessed.sum()), int(held.sum())
    return KeyScore(
        precision=both / max(num_guessed, 1),
        recall=both / max(num_held, 1),
        f1=2 * both / max(num_guessed + num_held, 1),
        held=num_held,
    )


def _side(turns_deg: np.ndarray) -> np.ndarray:
    return np.sign(turns_deg) * (np.abs(turns_deg) > MIN_TURN_DEG)


def _share(agrees: np.ndarray, among: np.ndarray) -> float:
    return float(agrees[among].mean()) if among.any() else 1.0


def score_clips(model: InverseDynamics, rows: Iterable[dict[str, Any]]) -> dict[str, ActionScores]:
    """Scores by game over curated rows (clip columns and `video`); each clip is read as a whole."""
    guesses: dict[str, list[Actions]] = defaultdict(list)
    truths: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for row in rows:
        guesses[row["game"]].append(model.predict(read_mp4(row["video"])))
        truths[row["game"]].append(recorded_actions(row))
    return {
        game: score_actions(_joined(guesses[game]), *map(np.concatenate, zip(*truths[game], strict=True)))
        for game in sorted(guesses)
    }


def _joined(pieces: list[Actions]) -> Actions:
    return Actions(
        *(np.concatenate([getattr(piece, name) for piece in pieces]) for name in Actions.__dataclass_fields__)
    )
