"""Counts of agreement with known answers, and a real clip read against its own keys."""

import numpy as np
import pytest

from gamegen.controls import CAMERA_SCALE_DEG, MOVEMENT_KEYS, OPERATION_SIZE
from gamegen.curation.encoded import aligned_operations
from gamegen.evaluation.following import NUM_KEYS, agreement, camera_sign, f1, followed, precision, recall
from gamegen.evaluation.real_clips import SHIPPED_CLIPS, clips_in
from gamegen.models.inverse_dynamics import Actions

W, D = MOVEMENT_KEYS.index("w"), MOVEMENT_KEYS.index("d")


def operations() -> np.ndarray:
    """Eight steps with w held, four of them turning right by 2.4 degrees."""
    done = np.zeros((8, OPERATION_SIZE), np.float32)
    done[:, W] = 1
    done[4:, NUM_KEYS] = 2.4 / CAMERA_SCALE_DEG
    return done


def reading(w: list[int], d: list[int], yaw_deg: list[float]) -> Actions:
    held = np.zeros((8, NUM_KEYS), bool)
    held[:, W], held[:, D] = w, d
    return Actions(held.astype(np.float32), held, np.array(yaw_deg, np.float32), np.zeros(8, np.float32))


def counts(read: Actions) -> dict[str, np.ndarray]:
    return {name: count[None] for name, count in agreement(read, operations()).items()}


def test_what_was_done_scores_full():
    found = counts(reading([1] * 8, [0] * 8, [0] * 4 + [2.0] * 4))
    everything = np.array([0])
    assert f1(found, everything) == camera_sign(found, everything) == 1


def test_misses_and_inventions_count_against_it():
    found = counts(reading([1] * 4 + [0] * 4, [1, 1] + [0] * 6, [0] * 4 + [2.0, -2.0, 0.1, 2.0]))
    everything = np.array([0])
    # Four of eight w, two d that nobody pressed; two of four turns on the right side.
    assert precision(found, everything) == pytest.approx(4 / 6)
    assert recall(found, everything) == pytest.approx(4 / 8)
    assert f1(found, everything) == pytest.approx(8 / 14)
    assert precision(found, everything, slice(D, D + 1)) == 0
    assert camera_sign(found, everything) == 0.5


def test_clips_are_pooled_as_often_as_they_are_drawn():
    good, bad = counts(reading([1] * 8, [0] * 8, [0] * 8)), counts(reading([0] * 8, [0] * 8, [0] * 8))
    both = {name: np.concatenate([good[name], bad[name]]) for name in good}
    assert f1(both, np.array([0, 0])) == 1 and f1(both, np.array([1])) == 0
    assert f1(both, np.array([0, 1])) == pytest.approx(2 / 3)


def test_a_real_clip_is_read_as_what_was_played():
    real = next(clip for clip in clips_in(SHIPPED_CLIPS) if clip.clip.clip_id.startswith("right"))
    frames = real.frames((160, 96))
    done = aligned_operations(real.clip, len(frames) // 4).astype(np.float32)
    found = followed(frames[:16], frames[16 : 4 * len(done)], done[4:])
    found = {name: count[None] for name, count in found.items()}
    assert camera_sign(found, np.array([0])) > 0.9
    # Against the keys of a clip that turns the other way it does not agree.
    done[..., NUM_KEYS] *= -1
    wrong = followed(frames[:16], frames[16 : 4 * len(done)], done[4:])
    assert camera_sign({name: count[None] for name, count in wrong.items()}, np.array([0])) < 0.1
