"""Checks of the client's JSON messages."""

from __future__ import annotations

import pytest

from deployments.stream.client_messages import parse_client_message


@pytest.mark.parametrize(
    "turn, says",
    [
        ('{"yaw_deg": 400}', "turn.yaw_deg: 400 degrees and the limit is 360"),
        ('{"pitch_deg": -360.5}', "turn.pitch_deg: -360.5 degrees and the limit is 360"),
        ('{"yaw_deg": 1e999}', "turn.yaw_deg: .*finite"),
        ('{"pitch_deg": NaN}', "turn.pitch_deg: .*finite"),
        ('{"roll_deg": 1}', "turn.roll_deg"),
    ],
)
def test_a_turn_out_of_bounds_is_refused(turn, says):
    with pytest.raises(ValueError, match=says):
        parse_client_message(f'{{"type": "control", "timestamp": 1, "turn": {turn}}}', 1000)


def test_message_over_the_limit_names_both_sizes():
    with pytest.raises(ValueError, match=r"40 bytes and the limit is 20"):
        parse_client_message('{"type":"seen","sequence":1}' + " " * 12, 20)
