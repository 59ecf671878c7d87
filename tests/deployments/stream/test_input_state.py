"""A player's current keys and camera motion."""

from __future__ import annotations

import pytest

from deployments.stream.client_messages import ControlMessage
from deployments.stream.input_state import MAX_PENDING_DEG, InputState
from gamegen.controls import MAX_CAMERA_DEG


def control(**parts) -> ControlMessage:
    return ControlMessage.model_validate({"type": "control", "timestamp": 1.0, **parts})


def test_keys_stay_down_until_released():
    held = InputState()
    held.apply(control(keyboard={"keys": ["w", "d"], "state": True}))
    assert held.take().keys == {"w", "d"}
    held.apply(control(keyboard={"keys": ["d"], "state": False}))
    assert held.take().keys == {"w"}


def test_a_tap_within_one_chunk_is_not_lost():
    held = InputState()
    held.apply(control(keyboard={"keys": ["space"], "state": True}))
    held.apply(control(keyboard={"keys": ["space"], "state": False}))
    assert held.take().keys == {"space"}
    assert held.take().keys == frozenset()


def test_camera_stays_until_changed():
    held = InputState()
    held.apply(control(camera={"yaw_deg": 2.0}))
    assert held.take().yaw_deg == held.take().yaw_deg == 2.0
    held.apply(control(camera={"yaw_deg": 0.0}))
    assert held.take().yaw_deg == 0.0


def turned_deg(held: InputState, num_chunks: int) -> list[tuple[float, float]]:
    """(yaw, pitch) of a frame in each of the next chunks."""
    return [held.take().camera_deg() for _ in range(num_chunks)]


def test_turns_add_up_and_are_spread_over_the_next_chunk():
    held = InputState()
    held.apply(control(turn={"yaw_deg": 10}))
    held.apply(control(turn={"yaw_deg": -2, "pitch_deg": 6}))
    assert turned_deg(held, 2) == [(2, 1.5), (0, 0)]


def test_a_turn_that_does_not_fit_goes_on_in_the_next_chunk():
    held = InputState()
    held.apply(control(turn={"yaw_deg": -60}))
    assert turned_deg(held, 4) == [(-MAX_CAMERA_DEG, 0), (-MAX_CAMERA_DEG, 0), (-3, 0), (0, 0)]


def test_a_turn_has_the_room_that_held_camera_and_arrow_keys_leave():
    held = InputState()
    held.apply(
        control(camera={"yaw_deg": 2}, keyboard={"keys": ["right"], "state": True}, turn={"yaw_deg": 16})
    )
    # 2 + 2.4 are held: 1.6 a frame are left, which takes two and a half chunks.
    yaws = [yaw for yaw, _ in turned_deg(held, 4)]
    assert yaws == pytest.approx([6, 6, 5.2, 4.4])
    held.apply(control(turn={"yaw_deg": -44}))
    assert [yaw for yaw, _ in turned_deg(held, 3)] == pytest.approx([-6, 3.8, 4.4])


def test_a_flick_does_not_turn_the_world_for_long():
    held = InputState()
    for _ in range(20):
        held.apply(control(turn={"yaw_deg": 360, "pitch_deg": -360}))
    turns = turned_deg(held, 10)
    assert 4 * sum(yaw for yaw, _ in turns) == pytest.approx(MAX_PENDING_DEG)
    assert 4 * sum(pitch for _, pitch in turns) == pytest.approx(-MAX_PENDING_DEG)
    assert turns[5] == (MAX_CAMERA_DEG, -MAX_CAMERA_DEG) and turns[6] == (0, 0)
