"""Known answers for the scores of read-off operations."""

import numpy as np
import pytest

from gamegen.controls import MOVEMENT_KEYS
from gamegen.evaluation.action_scores import key_score, score_actions
from gamegen.models.inverse_dynamics import Actions


def actions(keys: list[set[str]], yaw_deg: list[float], pitch_deg: list[float]) -> Actions:
    held = as_array(keys)
    return Actions(held.astype(np.float32), held, np.array(yaw_deg), np.array(pitch_deg))


def as_array(keys: list[set[str]]) -> np.ndarray:
    return np.array([[name in held for name in MOVEMENT_KEYS] for held in keys])


def test_keys_are_counted_one_by_one_and_together():
    truth = as_array([{"w"}, {"w", "a"}, {"w"}, set()])
    guess = actions([{"w"}, {"w"}, {"d"}, {"w"}], [0.0] * 4, [0.0] * 4)
    scores = score_actions(guess, truth, np.zeros((4, 2)))
    w, a, d = (scores.keys[name] for name in "wad")
    assert (w.precision, w.recall, w.f1, w.held) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 2 / 3, 3)
    assert (a.precision, a.recall, a.f1, a.held) == (0, 0, 0, 1)
    assert (d.precision, d.recall, d.f1, d.held) == (0, 0, 0, 0)
    # 2 right of 4 guessed and 4 held.
    assert (scores.micro.precision, scores.micro.recall, scores.micro.f1) == (0.5, 0.5, 0.5)
    assert scores.steps == 4


def test_the_camera_is_judged_by_its_side_where_it_truly_turns():
    turns_deg = np.array([[2.4, 0.0], [-1.2, 0.0], [1.2, 0.0], [0.0, -1.2], [0.0, 0.0], [0.2, 0.0]])
    guess = actions([set()] * 6, [1.0, 2.0, 0.1, 0.0, 0.0, 0.9], [0.0, 0.0, 0.0, -0.4, 0.2, 0.0])
    scores = score_actions(guess, as_array([set()] * 6), turns_deg)
    # Right side, wrong side, too small to count as a turn.
    assert scores.yaw_sign == pytest.approx(1 / 3)
    assert scores.pitch_sign == 1.0
    assert scores.camera_sign == pytest.approx(2 / 4)
    # The last two steps do not turn; on one of them a turn was guessed.
    assert scores.still_camera == pytest.approx(1 / 2)
    assert scores.yaw_error_deg == pytest.approx((1.4 + 3.2 + 1.1 + 0 + 0 + 0.7) / 6)
    assert scores.pitch_error_deg == pytest.approx((0.8 + 0.2) / 6)


def test_a_perfect_guess_scores_one_and_no_keys_at_all_nothing():
    keys = [{"w"}, {"a", "space"}, {"e"}, {"q"}]
    turns_deg = np.array([[2.4, 1.2], [-2.4, 0.0], [0.0, -1.2], [0.0, 0.0]])
    scores = score_actions(actions(keys, *turns_deg.T.tolist()), as_array(keys), turns_deg)
    assert scores.micro.f1 == scores.camera_sign == scores.still_camera == 1.0
    assert scores.yaw_error_deg == scores.pitch_error_deg == 0.0
    assert key_score(np.zeros((3, 7), bool), np.zeros((3, 7), bool)).f1 == 0.0
