"""The log of a session."""

from __future__ import annotations

import numpy as np
import pytest

from gamegen.controls import KEYS, Control
from gamegen.session_log import (
    CONTROL_BYTES,
    SessionLog,
    Spoken,
    WorldSpec,
    pack_controls,
    rounded,
    unpack_controls,
)

SPEC = WorldSpec("nano", "desert at noon", "first", 7, 160, 96)


def test_controls_come_back_as_they_were_logged():
    controls = [Control(), Control(KEYS, 1.5, -6), Control({"w", "left"}, -0.25)]
    packed = pack_controls(controls)
    assert len(packed) == 3 * CONTROL_BYTES == 30
    assert unpack_controls(packed) == controls


def test_a_rounded_control_draws_as_its_log_does():
    control = Control({"w"}, 1 / 3, 0.1)
    logged = unpack_controls(pack_controls([control]))[0]
    assert logged == rounded(control) == rounded(logged) != control
    assert np.array_equal(rounded(control).operations(), logged.operations())


@pytest.mark.parametrize(
    "packed, says",
    [(bytes(9), "9 bytes"), (b"\xff\xff" + bytes(8), "0xffff"), (b"\0\0\0\0\xc0\x7f" + bytes(4), "nan")],
)
def test_damaged_controls_are_refused(packed, says):
    with pytest.raises(ValueError, match=says):
        unpack_controls(packed)


def test_a_session_can_be_cut_where_another_branches_off():
    log = SessionLog(SPEC, [Control({"w"})] * 5, [Spoken(0, "rain"), Spoken(3, "snow")])
    assert log.until(3) == SessionLog(SPEC, [Control({"w"})] * 3, [Spoken(0, "rain")])
    with pytest.raises(ValueError, match="chunk 6: this session has 5"):
        log.until(6)
