"""The motion stage: truth lies beside the operations that cause it, mirrors swap sides, a pan is foreseen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gamegen.controls import MOVEMENT_KEYS
from gamegen.footage.geometry import CameraTrack
from gamegen.models.checkpoint import load_checkpoint
from gamegen.models.motion import FINE, FRONT_PLACES, NUM_OPERATIONS, PAST_OPERATIONS, MotionConfig
from gamegen.training.feed import Feed
from gamegen.training.loop import Run, Trainer
from gamegen.training.motion_windows import MotionWindows, PlayedClip, known_flow
from gamegen.training.optimisers import OptimiserConfig
from gamegen.training.run_stage import run_stage
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.motion import MotionStage, flow_distance, still_places
from gamegen.training.stages.stage import Stage
from gamegen.training.window_plan import ClipRow, Sample, WindowPlan, index_clips
from tests.footage_samples import panning_frames
from tests.training.samples import keyed_row, panning_folder

STAGE = MotionStage(
    steps=6,
    batch_size=4,
    buckets=(TrainingBucket("128x72", 8),),
    save_every=3,
    log_every=1,
    ema_decay=0.5,
    motion_model=MotionConfig.tiny(),
    optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=1),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return panning_folder(tmp_path_factory.mktemp("curated"))


def trainer(folder: Path, data: Path, init: Path) -> Trainer:
    torch.manual_seed(0)
    model = STAGE.build_model(init, data, folder)
    windows = STAGE.windows(model.config)
    feed = Feed(WindowPlan(STAGE, index_clips(data, "train", windows.length_column)), windows)
    return Trainer(STAGE.objective(model), STAGE, Run(output=folder, show_progress=False), feed)


def test_flow_leads_back_to_the_first_frame():
    """A camera that pans right by 2 pixels a frame: what is at x was at x + 2 in the frame before."""
    flow, trusted = known_flow(PlayedClip(panning_frames(6), np.zeros((6, 9), np.float32)))
    assert flow.shape == (4, 2, 72 // FINE, 128 // FINE)
    inner = (slice(None), 0, slice(2, -2), slice(2, -6))
    assert np.abs(flow[inner].mean((1, 2)) - [2, 4, 6, 8]).max() < 0.4
    # What comes in at the right edge is new.
    assert trusted[:, :, : 128 // FINE - 2].mean() > 0.95 and not trusted[3, :, -1].any()


def test_true_flow_stands_where_the_search_finds_nothing():
    """A camera turns right before a blank wall."""
    track = CameraTrack(
        inverse_depth=np.full((6, 18, 32), 25, np.uint8),
        position=np.zeros((6, 3)),
        heading_deg=np.arange(6.0),
        tilt_deg=np.zeros(6),
        is_first_person=np.ones(6, bool),
        vertical_fov_deg=60.0,
    )
    blank = PlayedClip(np.full((6, 72, 128, 3), 90, np.uint8), np.zeros((6, 9), np.float32), track)
    flow, trusted = known_flow(blank)
    for k in range(4):
        true = track.flow(2 + k, 1)
        np.testing.assert_allclose(flow[k][:, 2:-2, 2:-6], true[:, 2:-2, 2:-6], atol=0.02)
    assert trusted[:, 2:-2, 2:-6].all() and not trusted[3, :, -1].any()
    third = dataclasses.replace(track, is_first_person=np.zeros(6, bool))
    searched = known_flow(dataclasses.replace(blank, track=third))[0]
    assert not searched.any()


def test_a_window_depends_on_its_sample_alone_and_shows_its_operations():
    keys = [["w", "d"] if i % 2 else ["a"] for i in range(24)]
    windows = MotionWindows()
    clip = windows.prepare(keyed_row(panning_frames(24), keys, [float(i) for i in range(24)]))
    samples = [Sample(ClipRow("any", 0, 0, 6), i % 3, (0, i)) for i in range(8)]
    cut = [windows.cut(clip, sample, 2) for sample in samples]
    again = windows.cut(clip, samples[3], 2)
    np.testing.assert_array_equal(cut[3].clip.frames, again.clip.frames)
    batch = windows.collate(cut)
    assert batch.operations.shape == (8, NUM_OPERATIONS, 9) and batch.frames.shape == (8, 4, 3, 72, 128)
    for i, window in enumerate(cut):
        turns = window.clip.operations[:, 7] * 2.4
        # The last operation leads to the last frame, the sixth from the end from the frame before.
        first = round(abs(float(turns[-5])))
        mirrored = turns[-1] < 0
        pictures = clip.frames[first : first + 6, :, ::-1] if mirrored else clip.frames[first : first + 6]
        np.testing.assert_array_equal(window.clip.frames, pictures)
        # Nothing is held before the clip begins.
        expected = np.maximum(np.arange(first - PAST_OPERATIONS + 1, first + 5), 0)
        np.testing.assert_allclose(np.abs(turns), expected, atol=1e-5)
        torch.testing.assert_close(batch.operations[i], torch.from_numpy(window.clip.operations))
    assert {bool(window.clip.operations[-1, 7] < 0) for window in cut} == {False, True}


def test_a_mirror_swaps_sides_in_picture_keys_and_turn():
    clip = MotionWindows().prepare(keyed_row(panning_frames(8), [["w", "a"]] * 8, [1.2] * 8))
    mirrored = clip.mirrored()
    assert {MOVEMENT_KEYS[i] for i in mirrored.operations[0, :7].nonzero()[0]} == {"w", "d"}
    assert mirrored.operations[0, 7] == -clip.operations[0, 7]
    np.testing.assert_array_equal(mirrored.frames, clip.frames[:, :, ::-1])
    np.testing.assert_array_equal(mirrored.mirrored().operations, clip.operations)


def test_clips_without_keys_are_refused():
    with pytest.raises(ValueError, match="gamegen idm label"):
        MotionWindows().prepare({"clip_id": "x", "num_frames": 3, "keys": []})


def test_only_trusted_places_count_for_the_distance():
    truth = torch.zeros(1, 4, 2, 8, 8)
    flow = truth.clone()
    flow[..., 4:] = 9
    trusted = torch.ones(1, 4, 8, 8)
    trusted[..., 4:] = 0
    assert flow_distance(flow, truth, trusted) == 0
    assert flow_distance(flow, truth, torch.ones_like(trusted)) > 1


def test_resumed_run_equals_uninterrupted_run(data, tiny_model, tmp_path):
    trainer(tmp_path / "whole", data, tiny_model).train()
    first = trainer(tmp_path / "parts", data, tiny_model)
    for _ in first.steps():
        if first.step == 3:
            break
    first.finish_writing()
    trainer(tmp_path / "parts", data, tiny_model).train()
    whole, parts = (load_checkpoint(tmp_path / name, "cpu").model for name in ("whole", "parts"))
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_resumed_run_is_not_initialised_again(data, tiny_model, tmp_path, monkeypatch):
    run = Run(output=tmp_path, show_progress=False)
    run_stage(dataclasses.replace(STAGE, steps=3), data, run, str(tiny_model))
    monkeypatch.delattr(Stage, "initialise")
    run_stage(STAGE, data, run, str(tiny_model))
    assert load_checkpoint(tmp_path, "cpu").card["steps"] == 6


def test_it_is_learned_from_the_footage_where_something_is_held():
    flow, trusted = torch.zeros(32, 2, 24, 40), torch.ones(32, 24, 40)
    flow[:, 0] = 12.0
    mirrored = torch.arange(32) % 2 == 0
    flow[~mirrored, :, 18:, 32:] = 0
    flow[mirrored, :, 18:, :8] = 0
    # A place that stands still once is an accident, one that nothing explains says nothing.
    flow[0, :, 2:6, 2:6] = 0
    trusted[:, :4, 32:], flow[:, :, :4, 32:] = 0, 0
    places = still_places(flow, trusted, mirrored)
    expected = torch.zeros(FRONT_PLACES)
    expected[8:, 15:] = 1
    assert torch.equal(places, expected)
    assert still_places(flow / 10, trusted, mirrored).all()


def test_some_windows_are_shown_without_their_detail(data, tiny_model, tmp_path):
    clip = MotionWindows().prepare(keyed_row(panning_frames(24, 9), [["d"]] * 24, [1.2] * 24))
    samples = [Sample(ClipRow("any", 0, 0, 6), i, (0, i)) for i in range(40)]
    batch = MotionWindows().collate([MotionWindows().cut(clip, sample, 2) for sample in samples])
    model = STAGE.build_model(tiny_model, data, tmp_path)
    for share in (0.0, 0.5, 1.0):
        loss = dataclasses.replace(STAGE.motion_loss, soft_windows=share)
        objective = dataclasses.replace(STAGE, motion_loss=loss).objective(model)
        seen = objective._softened(batch, torch.Generator().manual_seed(0))
        assert torch.equal(seen.frames, batch.frames)
        changed = (seen.last != batch.last).flatten(1).any(1)
        assert torch.equal(changed, (seen.before != batch.before).flatten(1).any(1))
        assert changed.float().mean() == pytest.approx(share, abs=0.2)
        coarse = [torch.nn.functional.avg_pool2d(frames, 8) for frames in (seen.last, batch.last)]
        torch.testing.assert_close(coarse[0], coarse[1], atol=0.2, rtol=0)


def test_it_foresees_a_pan_and_leaves_the_rest_of_the_model_alone(data, tiny_model, tmp_path):
    optimiser = dataclasses.replace(STAGE.optimiser, learning_rate=4e-3)
    config = dataclasses.replace(STAGE, steps=30, save_every=30, optimiser=optimiser)
    run_stage(config, data, Run(output=tmp_path, show_progress=False), str(tiny_model))
    found = load_checkpoint(tmp_path, "cpu")
    assert found.card["stage"] == "motion" and found.config.motion == MotionConfig.tiny()
    before = load_checkpoint(tiny_model, "cpu").model.state_dict()
    after = found.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert (set(after) - set(before)) == {name for name in after if name.startswith("motion.")}
    objective = config.objective(found.model)
    clip = MotionWindows().prepare(keyed_row(panning_frames(24, 9), [["d"]] * 24, [1.2] * 24))
    batch = MotionWindows().collate(
        [MotionWindows().cut(clip, Sample(ClipRow("any", 0, 0, 6), i, (0, i)), 2) for i in range(3)]
    )
    with torch.no_grad():
        _, metrics = objective.loss(batch, torch.Generator(), 0.0)
    assert metrics["gain_db"] > 3 and metrics["flow_gain_db"] > metrics["gain_db"]
    assert metrics["endpoint_px"] < 1
    assert objective.sheet(batch).shape == (5 * 72, 3 * 128, 3)
