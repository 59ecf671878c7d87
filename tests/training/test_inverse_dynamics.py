"""The idm stage: truth lies beside the motion it caused, mirrors swap sides, a pan is learned."""

import dataclasses

import numpy as np
import pytest
import torch

from gamegen.controls import MOVEMENT_KEYS
from gamegen.models.checkpoint import read_card
from gamegen.models.inverse_dynamics import (
    InverseDynamics,
    InverseDynamicsConfig,
    expected_deg,
    load_inverse_dynamics,
    motion_maps,
)
from gamegen.training.feed import Feed
from gamegen.training.loop import Run, Trainer
from gamegen.training.memory_feed import windows_in_memory
from gamegen.training.optimisers import OptimiserConfig
from gamegen.training.recorded_windows import (
    InverseDynamicsLossConfig,
    RecordedClip,
    RecordedWindows,
    disturbed,
    recorded_actions,
)
from gamegen.training.run_stage import run_stage
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.inverse_dynamics import InverseDynamicsStage, choose_thresholds, two_hot
from gamegen.training.stages.table import load_stage, stage_file
from gamegen.training.window_plan import ClipRow, Sample, WindowPlan, index_clips
from tests.footage_samples import panning_frames
from tests.training.samples import keyed_row, panning_folder

TINY = InverseDynamicsConfig.tiny()
AS_RECORDED = InverseDynamicsLossConfig(redrawn_clips=0.0, disturbed_clips=0.0)
STAGE = InverseDynamicsStage(
    steps=6,
    batch_size=4,
    buckets=(TrainingBucket("128x72", 12),),
    save_every=3,
    log_every=1,
    ema_decay=0.9,
    optimiser=OptimiserConfig(learning_rate=1e-2, warmup_steps=1),
    idm_model=TINY,
    idm_loss=AS_RECORDED,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return panning_folder(tmp_path_factory.mktemp("curated"))


def trainer(folder, data, config: InverseDynamicsStage = STAGE) -> Trainer:
    torch.manual_seed(0)
    objective = config.objective(InverseDynamics(TINY))
    dataset = config.windows(TINY)
    plan = WindowPlan(config, index_clips(data, "train", dataset.length_column))
    feed = Feed(plan, dataset, windows_in_memory(dataset))
    return Trainer(objective, config, Run(output=folder, show_progress=False), feed)


def test_an_operation_stands_at_the_step_in_which_it_shows():
    picture = panning_frames(1)[0]
    frames = np.stack([picture] * 5 + [np.roll(picture, -4, 1)] * 5)
    # Done at frame 4, seen first in frame 5.
    clip = RecordedWindows(TINY, AS_RECORDED).prepare(
        keyed_row(frames, [["d"] if i == 4 else [] for i in range(10)], [2.4 * (i == 4) for i in range(10)])
    )
    assert len(clip.maps) == len(clip.keys) == len(clip.turns_deg) == 9
    assert np.abs(clip.maps[:, 0]).mean((1, 2)).argmax() == 4
    assert clip.keys[:, MOVEMENT_KEYS.index("d")].nonzero()[0].tolist() == [4]
    assert clip.turns_deg[:, 0].nonzero()[0].tolist() == [4]


def test_clips_without_keys_are_refused():
    with pytest.raises(ValueError, match="gamegen idm label"):
        recorded_actions({"clip_id": "x", "num_frames": 3, "keys": [], "yaw_deg": [], "pitch_deg": []})


def test_a_mirror_swaps_sides_in_picture_keys_and_turn():
    frames = panning_frames(8)
    keys = np.zeros((7, len(MOVEMENT_KEYS)), bool)
    keys[:, [MOVEMENT_KEYS.index("w"), MOVEMENT_KEYS.index("a")]] = True
    turns_deg = np.tile(np.array([1.2, 0.5], np.float32), (7, 1))
    clip = RecordedClip(motion_maps(frames, TINY), keys, turns_deg)
    mirrored = clip.mirrored()
    assert {MOVEMENT_KEYS[i] for i in mirrored.keys[0].nonzero()[0]} == {"w", "d"}
    assert mirrored.turns_deg[0].tolist() == pytest.approx([-1.2, 0.5])
    really = motion_maps(np.ascontiguousarray(frames[:, :, ::-1]), TINY)
    # Optical flow itself is not quite the same in a mirror.
    difference = np.abs(mirrored.maps.astype(float) - really).mean()
    assert difference < 0.05 < 0.1 < np.abs(clip.maps.astype(float) - really).mean()
    again = mirrored.mirrored()
    for name in ("maps", "keys", "turns_deg"):
        np.testing.assert_array_equal(getattr(again, name), getattr(clip, name))


def samples(count: int) -> list[Sample]:
    clip = ClipRow("any", 0, 0, 12)
    return [Sample(clip, i % 12, (0, i)) for i in range(count)]


def test_a_window_depends_on_its_sample_alone():
    dataset = RecordedWindows(TINY, AS_RECORDED)
    clip = dataset.prepare(keyed_row(panning_frames(48), [["d"]] * 48, [1.2] * 48))
    one, again, other = (
        dataset.cut(clip, sample, 3) for sample in (samples(1)[0], samples(1)[0], samples(2)[1])
    )
    np.testing.assert_array_equal(one.maps, again.maps)
    assert not np.array_equal(one.maps, other.maps)
    batch = dataset.collate([one, other])
    assert batch.maps.shape == (2, 12, 6, *TINY.cells[::-1])
    assert batch.keys.shape == (2, 12, len(MOVEMENT_KEYS)) and batch.turns_deg.shape == (2, 12, 2)


def test_windows_are_drawn_around_rare_keys():
    keys = [["q"] if i == 40 else [] for i in range(48)]
    clip = RecordedWindows(TINY, AS_RECORDED).prepare(keyed_row(panning_frames(48), keys, [0.0] * 48))

    def share(rare_windows: float) -> float:
        loss = dataclasses.replace(AS_RECORDED, rare_windows=rare_windows)
        dataset = RecordedWindows(TINY, loss)
        windows = dataset.collate([dataset.cut(clip, sample, 1) for sample in samples(60)])
        return windows.keys[..., MOVEMENT_KEYS.index("q")].amax(1).mean().item()

    assert share(0.0) < 0.25
    assert share(1.0) == 1


def test_turns_are_weights_of_two_bins_whose_mean_they_are():
    bins = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    turns_deg = torch.tensor([0.0, 0.25, -1.5, 2.0, 9.0, -9.0])
    weights = two_hot(turns_deg, bins)
    assert weights[1].tolist() == [0, 0, 0.75, 0.25, 0]
    assert (weights > 0).sum(-1).max() == 2
    torch.testing.assert_close((weights * bins).sum(-1), turns_deg.clamp(-2, 2))
    torch.testing.assert_close(expected_deg(weights.log(), bins), turns_deg.clamp(-2, 2))


def test_thresholds_reach_the_highest_micro_f1():
    rng = np.random.default_rng(0)
    held = rng.random((400, 2)) < (0.5, 0.1)
    # The second key's probabilities are a third of what they should be.
    probabilities = np.clip(held * 0.5 + rng.random((400, 2)) * 0.5, 0, 1) * (1, 1 / 3)

    def f1(thresholds) -> float:
        guessed = probabilities >= np.array(thresholds)
        return 2 * (guessed & held).sum() / (guessed.sum() + held.sum())

    grid = np.linspace(0.05, 0.95, 91)
    best = max(f1((a, b)) for a in grid for b in grid)
    assert f1(choose_thresholds(probabilities, held)) == pytest.approx(best, abs=1e-9)
    assert f1((0.5, 0.5)) < best


def test_disturbed_clips_are_softer_and_the_same_each_time():
    frames = panning_frames(4)
    loss = InverseDynamicsLossConfig(gamma=0.0, noise=0.0, shimmer=0.0, blur_px=4.0)
    soft = disturbed(frames, loss, np.random.default_rng(1))
    assert (
        np.abs(np.diff(soft.astype(int), axis=2)).mean() < np.abs(np.diff(frames.astype(int), axis=2)).mean()
    )
    one, other = (disturbed(frames, InverseDynamicsLossConfig(), np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_clips_are_drawn_again_by_a_models_decoder(tiny_model):
    loss = InverseDynamicsLossConfig(redrawn_by=str(tiny_model), redrawn_clips=1.0)
    prepare, recorded = RecordedWindows(TINY, loss).prepare, RecordedWindows(TINY, AS_RECORDED).prepare
    clip = keyed_row(panning_frames(10)[:, :64, :128], [[]] * 10, [0.0] * 10)
    assert prepare(clip).maps.shape == recorded(clip).maps.shape
    assert not np.array_equal(prepare(clip).maps, recorded(clip).maps)
    np.testing.assert_array_equal(prepare(clip).maps, prepare(clip).maps)


def test_resumed_run_equals_uninterrupted_run(data, tmp_path):
    trainer(tmp_path / "whole", data).train()
    first = trainer(tmp_path / "parts", data)
    for _ in first.steps():
        if first.step == 3:
            break
    first.finish_writing()
    trainer(tmp_path / "parts", data).train()
    whole, parts = (load_inverse_dynamics(tmp_path / name, "cpu") for name in ("whole", "parts"))
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert read_card(tmp_path / "whole")["stage"] == "idm"


def test_it_learns_which_way_a_camera_pans(data, tmp_path):
    trainer(tmp_path, data, dataclasses.replace(STAGE, steps=60, save_every=60)).train()
    model = load_inverse_dynamics(tmp_path, "cpu")
    frames = panning_frames(24, seed=9)
    right, left = model.predict(frames), model.predict(frames[::-1].copy())
    assert (right.yaw_deg > 0.3).all() and (left.yaw_deg < -0.3).all()
    a, d = MOVEMENT_KEYS.index("a"), MOVEMENT_KEYS.index("d")
    assert right.held[:, d].all() and left.held[:, a].all()
    assert not right.held[:, a].any() and not left.held[:, d].any()


def test_the_stage_goes_on_from_a_checkpoint(data, tmp_path):
    run_stage(STAGE, data, Run(output=tmp_path / "first", show_progress=False))
    config = dataclasses.replace(STAGE, steps=1, optimiser=OptimiserConfig(learning_rate=0.0))
    run_stage(config, data, Run(output=tmp_path / "second", show_progress=False), tmp_path / "first")
    first, second = (load_inverse_dynamics(tmp_path / name, "cpu") for name in ("first", "second"))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_shipped_stage_loads():
    assert load_stage(stage_file("idm")).stage == "idm"
