"""Inverse dynamics: where motion is seen, how far around a step it looks, what is refused, what is shipped."""

import dataclasses

import numpy as np
import pytest
import torch

from gamegen.controls import MOVEMENT_KEYS
from gamegen.evaluation.action_scores import score_actions
from gamegen.evaluation.real_clips import SHIPPED_CLIPS
from gamegen.footage.clips import read_table
from gamegen.media.mp4 import read_mp4
from gamegen.models.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    WEIGHTS_FOLDER,
    CheckpointError,
    read_card,
    save_checkpoint,
)
from gamegen.models.inverse_dynamics import (
    FLOW_SCALE_PX,
    InverseDynamics,
    InverseDynamicsConfig,
    even_grey,
    expected_deg,
    load_inverse_dynamics,
    motion_maps,
)
from gamegen.training.recorded_windows import recorded_actions
from tests.footage_samples import panning_frames

TINY = InverseDynamicsConfig.tiny()


def tiny_model(seed: int = 0) -> InverseDynamics:
    torch.manual_seed(seed)
    return InverseDynamics(TINY).eval()


@pytest.mark.parametrize("shape", [(2, 24, 40), (9, 72, 128), (5, 33, 47)])
def test_one_operation_between_two_frames_of_any_size(shape):
    frames = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    actions = tiny_model().predict(frames)
    steps = len(frames) - 1
    assert actions.keys.shape == actions.held.shape == (steps, len(MOVEMENT_KEYS))
    assert actions.yaw_deg.shape == actions.pitch_deg.shape == (steps,)
    assert (actions.keys >= 0).all() and (actions.keys <= 1).all()
    assert np.abs(actions.yaw_deg).max() <= TINY.camera_bins_deg[-1]
    assert len(actions.names()) == steps


def test_one_frame_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        tiny_model().predict(np.zeros((1, 40, 64, 3), np.uint8))


def test_thresholds_decide_what_counts_as_held():
    frames = panning_frames(6)
    low = dataclasses.replace(TINY, key_thresholds=(0.0,) * 7)
    high = dataclasses.replace(TINY, key_thresholds=(1.0,) * 7)
    weights = tiny_model().state_dict()
    for config, held in ((low, True), (high, False)):
        model = InverseDynamics(config)
        model.load_state_dict(weights)
        assert (model.predict(frames).held == held).all()
    assert model.predict(frames).names() == [[]] * 5


def test_a_move_between_two_frames_shows_at_their_step_alone():
    picture = panning_frames(1)[0]
    frames = np.stack([picture] * 4 + [np.roll(picture, -4, 1)] * 4)
    moving = np.abs(motion_maps(frames, TINY)[:, 0]).mean((1, 2))
    assert moving.argmax() == 3
    assert (np.delete(moving, 3) < 0.05 * moving[3]).all()


def test_a_camera_that_pans_right_sees_the_picture_flow_left():
    # 2 pixels of 128, scaled to a height of 40 from 72.
    flow_px = motion_maps(panning_frames(6), TINY)[:, 0] * FLOW_SCALE_PX
    assert np.median(flow_px) == pytest.approx(-2 * 40 / 72, abs=0.15)


def test_motion_looks_the_same_by_day_and_by_night():
    day = panning_frames(1)[0]
    night = (day * 0.3).astype(np.uint8)
    difference = np.abs(even_grey(day).astype(int) - even_grey(night))
    assert difference.mean() < 6 < np.abs(day.astype(int) - night).mean()


def test_a_step_is_judged_by_what_is_around_it_and_no_further():
    model, reach = tiny_model(), sum(TINY.dilations)
    maps = torch.randn(1, 20, 6, *TINY.cells[::-1])
    changed = maps.clone()
    changed[:, 10] += 1
    with torch.inference_mode():
        differs = (model(maps)[0] - model(changed)[0]).abs().amax((0, 2)) > 0
    assert differs.nonzero().flatten().tolist() == list(range(10 - reach, 10 + reach + 1))


def test_the_camera_is_the_mean_of_its_bins():
    logits = torch.tensor([[-50.0, 50.0, 50.0, -50.0], [50.0, -50.0, -50.0, -50.0]])
    assert expected_deg(logits, torch.tensor([-2.0, 0.0, 1.0, 2.0])).tolist() == pytest.approx([0.5, -2.0])


def test_a_checkpoint_comes_back_as_it_was_and_damage_is_refused(tmp_path):
    model, frames = tiny_model(), panning_frames(6)
    save_checkpoint(tmp_path, model.config, model.state_dict(), {"stage": "idm"})
    loaded = load_inverse_dynamics(tmp_path, "cpu")
    assert loaded.config == TINY
    np.testing.assert_array_equal(loaded.predict(frames).keys, model.predict(frames).keys)

    config = tmp_path / CONFIG_FILE
    config.write_text(config.read_text() + " ")
    with pytest.raises(CheckpointError, match=r"config.json is damaged"):
        load_inverse_dynamics(tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load_inverse_dynamics(tmp_path)


@pytest.fixture(scope="module")
def shipped() -> InverseDynamics:
    return load_inverse_dynamics("idm", "cpu")


@pytest.fixture(scope="module")
def real_clips(shipped):
    """(clip, what the shipped weights read off it) of every real test clip."""
    return {
        clip.clip_id: (clip, shipped.predict(read_mp4(SHIPPED_CLIPS / clip.path)))
        for clip in read_table(SHIPPED_CLIPS)
    }


def test_shipped_weights_read_keys_and_turns_off_real_clips(real_clips):
    """The clips are from the worlds that training saw; the card has the figures for worlds it did not see."""
    scores = {
        name: score_actions(guess, *recorded_actions(clip.to_row()))
        for name, (clip, guess) in real_clips.items()
    }
    for name in ("forward", "left", "right"):
        assert scores[name].micro.f1 >= 0.9
        assert scores[name].camera_sign >= 0.95
        assert scores[name].still_camera >= 0.9
    assert scores["forward"].keys["w"].recall >= 0.95


def test_shipped_weights_know_when(real_clips):
    """Turns are told for the steps that they show in: moved by one step, they fit less well."""

    def error_deg(shift: int) -> float:
        errors = []
        for clip, guess in real_clips.values():
            truth_deg = recorded_actions(clip.to_row())[1][:, 0]
            errors.append(np.abs(np.roll(guess.yaw_deg, shift) - truth_deg)[1:-1])
        return float(np.concatenate(errors).mean())

    assert error_deg(0) < min(error_deg(-1), error_deg(1))


def test_shipped_weights_are_small_and_their_figures_are_in_the_card(shipped):
    assert sum(file.stat().st_size for file in (WEIGHTS_FOLDER / "idm").iterdir()) < 4 * 2**20
    assert set(read_card("idm")["evaluation"]["test"]) == {"minetest", "vizdoom"}
    assert shipped.config.key_thresholds != InverseDynamicsConfig().key_thresholds
