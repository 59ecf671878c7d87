"""Warping and the motion network: warps move, turns are foreseen, batches equal single samples."""

import numpy as np
import pytest
import torch

from gamegen.models.model import Model, ModelConfig
from gamegen.models.motion import (
    FINE,
    NUM_OPERATIONS,
    Motion,
    MotionConfig,
    MotionNetwork,
    MotionPrediction,
    PredictedMotion,
)
from gamegen.models.warping import inside, resize_flow, warp

H, W = 32, 48


def moved_right(pixels: float, k: int = 1, size: tuple[int, int] = (H, W)) -> torch.Tensor:
    """The flow of a picture whose content moves to the right, `(1, k, 2, H, W)`."""
    flow = torch.zeros(1, k, 2, *size)
    flow[:, :, 0] = -pixels
    return flow


@pytest.fixture
def network() -> MotionNetwork:
    """Random weights, also where training begins with none."""
    torch.manual_seed(0)
    network = MotionNetwork(MotionConfig.tiny())
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    last, before = torch.rand(2, batch, 3, H, W, generator=generator) * 2 - 1
    return last, before, torch.randn(batch, NUM_OPERATIONS, 9, generator=generator)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_warp_by_whole_pixels_moves_them_and_repeats_the_edge(interpolation):
    frame = torch.rand(1, 3, H, W)
    moved = warp(frame, moved_right(5, 2), interpolation)
    assert moved.shape == (1, 2, 3, H, W)
    torch.testing.assert_close(moved[0, 1, :, :, 5:], frame[0, :, :, :-5], atol=2e-5, rtol=0)
    torch.testing.assert_close(moved[0, 0, :, :, 0], frame[0, :, :, 0], atol=2e-5, rtol=0)
    where = inside(moved_right(5))[0, 0]
    assert not where[:, :5].any() and where[:, 5:].all()


def test_a_resized_flow_keeps_its_lengths():
    resized = resize_flow(moved_right(3, size=(H // FINE, W // FINE)), H, W)
    torch.testing.assert_close(resized, moved_right(3))


def test_a_batch_equals_single_samples(network):
    last, before, operations = inputs(3)
    with torch.inference_mode():
        together = network(last, before, operations)
        for i in range(3):
            alone = network(last[i : i + 1], before[i : i + 1], operations[i : i + 1])
            for whole, part in zip(
                (*together[:4], *together.camera), (*alone[:4], *alone.camera), strict=True
            ):
                torch.testing.assert_close(whole[i : i + 1], part, atol=1e-5, rtol=1e-4)


def new_motion(yaw: float = 0.0, pitch: float = 0.0) -> tuple[torch.Tensor, Motion]:
    """A frame, and what a network before its training says of it and of a turn of so many steps a frame."""
    torch.manual_seed(0)
    last, before, _ = inputs(1)
    operations = torch.zeros(1, NUM_OPERATIONS, 9)
    operations[:, -4:, 7], operations[:, -4:, 8] = yaw, pitch
    with torch.inference_mode():
        return last, MotionNetwork(MotionConfig.tiny())(last, before, operations)


def test_a_new_network_moves_nothing_without_operations():
    last, motion = new_motion()
    torch.testing.assert_close(motion.warp(last)[:, 3], last, atol=1e-4, rtol=0)
    assert motion.log_error.shape == motion.newly_seen.shape == (1, 4, H // FINE, W // FINE)


@pytest.mark.parametrize(("axis", "turn"), [(0, {"yaw": 1.0}), (1, {"pitch": -1.0})])
def test_a_new_network_turns_as_the_operations_ask(axis, turn):
    """2.4 degrees a frame move the middle by tan(2.4 degrees) focal lengths, but for a twentieth that stands still."""
    _, motion = new_motion(**turn)
    focal = H / 2 / np.tan(np.radians(36))
    sign = next(iter(turn.values()))
    middle = motion.flow[
        0, :, axis, H // FINE // 2 - 1 : H // FINE // 2 + 1, W // FINE // 2 - 1 : W // FINE // 2 + 1
    ]
    expected = sign * focal * np.tan(np.radians(2.4 * np.arange(1, 5)))
    np.testing.assert_allclose(middle.mean((1, 2)), 0.953 * expected, rtol=0.02)
    # What comes in from beyond the edge is new.
    new = motion.newly_seen[0, 3]
    entering = new[:, -1] if axis == 0 else new[0]
    assert (entering > 0).all() and new[H // FINE // 2, W // FINE // 2] < 0


def test_a_model_without_motion_has_no_such_part():
    assert Model(ModelConfig.tiny()).motion is None
    assert "motion" not in dict(Model(ModelConfig.tiny()).named_children())


def test_only_places_that_may_stand_still_do():
    torch.manual_seed(0)
    network = MotionNetwork(MotionConfig.tiny())
    with torch.no_grad():
        network.fine_out.bias[1] = 9.0
    given = inputs(2)
    network.may_stand_still[:, :10] = 0
    with torch.inference_mode():
        motion = PredictedMotion(*MotionPrediction(network)(*given))
        whole = network(*given)
    left = slice(0, motion.moving.shape[-1] // 2)
    right = slice(motion.moving.shape[-1] // 2, None)
    assert (motion.moving[..., left] == 1).all() and (motion.moving[..., right] < 0.01).all()
    torch.testing.assert_close(motion.moving[..., right], whole.moving[..., right])
    torch.testing.assert_close(motion.flow[..., right], whole.flow[..., right])
    moved = whole.flow + (1 - whole.moving)[:, None, None] * whole.scenery
    torch.testing.assert_close(motion.flow[..., left], moved[..., left])


def test_weights_from_before_places_were_told_apart_load():
    weights = MotionNetwork(MotionConfig.tiny()).state_dict()
    del weights["may_stand_still"]
    network = MotionNetwork(MotionConfig.tiny())
    network.load_state_dict(weights)
    assert network.may_stand_still.all()
