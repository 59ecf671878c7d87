import numpy as np
import pytest

from gamegen.controls import (
    CAMERA_SCALE_DEG,
    KEY_PITCH_DEG,
    KEY_TURN_DEG,
    MAX_CAMERA_DEG,
    MOVEMENT_KEYS,
    OPERATION_SIZE,
    Control,
    operation_array,
    parse_script,
)


def test_a_control_is_four_equal_operation_rows() -> None:
    rows = Control(keys={"w", "space"}, yaw_deg=1.2).operations()
    assert rows.shape == (4, OPERATION_SIZE)
    assert rows.dtype == np.float32
    held = dict(zip(MOVEMENT_KEYS, rows[0], strict=False))
    assert [key for key, value in held.items() if value] == ["w", "space"]
    assert rows[:, -2:].tolist() == pytest.approx(np.full((4, 2), (1.2 / CAMERA_SCALE_DEG, 0)), abs=1e-6)


def test_arrow_keys_turn_the_camera_and_cancel_out() -> None:
    assert Control({"right"}).camera_deg() == (KEY_TURN_DEG, 0)
    assert Control({"left", "down"}).camera_deg() == (-KEY_TURN_DEG, KEY_PITCH_DEG)
    assert Control({"left", "right"}).camera_deg() == (0, 0)


def test_mouse_adds_to_the_keys_up_to_a_limit() -> None:
    assert Control({"right"}, yaw_deg=1.0).camera_deg()[0] == pytest.approx(KEY_TURN_DEG + 1.0)
    assert Control({"left"}, yaw_deg=-100).camera_deg()[0] == -MAX_CAMERA_DEG


def test_controls_are_values() -> None:
    assert Control(["w", "a"]) == Control({"a", "w"})
    assert len({Control("w"), Control(["w"])}) == 1


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ValueError, match="unknown key 'x': use some of w a s d"):
        Control({"w", "x"})


def test_operations_of_no_frames_keep_their_width() -> None:
    assert operation_array([], [], []).shape == (0, OPERATION_SIZE)


def test_a_script_is_one_entry_a_frame() -> None:
    frames = parse_script("w*2, w+d*1,none*1,left*1")
    assert frames == [
        frozenset("w"),
        frozenset("w"),
        frozenset("wd"),
        frozenset(),
        frozenset(["left"]),
    ]


@pytest.mark.parametrize("script", ["w", "w*0", "w*-3", "w*x", "jump*4", "", "w+*3"])
def test_a_script_that_cannot_be_read_is_refused(script: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read|unknown key|is empty"):
        parse_script(script)
