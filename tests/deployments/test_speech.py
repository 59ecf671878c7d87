"""How often a player may speak, and how much of it is logged."""

from __future__ import annotations

import pytest

from deployments import connection
from deployments.errors import ApiError
from deployments.settings import IngressSettings
from deployments.speech import ENTRY_BYTES, Speech
from gamegen.session_log import Spoken
from tests.stopped_clock import StoppedClock


@pytest.fixture
def clock(monkeypatch) -> StoppedClock:
    clock = StoppedClock()
    monkeypatch.setattr(connection, "time", clock)
    return clock


def test_words_come_so_many_times_a_second(clock):
    speech = Speech(IngressSettings(max_instructions_per_s=2), ())
    for _ in range(3):
        for _ in range(2):
            speech.check("rain")
        with pytest.raises(ApiError, match="more than 2 instructions a second") as refused:
            speech.check("snow")
        assert (refused.value.status, refused.value.code) == (429, "too_many_instructions")
        clock.now += 1


def test_the_words_of_a_session_have_an_end_also_those_of_its_other_sockets(clock):
    logged = [Spoken(0, "snö"), Spoken(7, "")]
    settings = IngressSettings(max_logged_words_bytes=4 + 4 + 3 * ENTRY_BYTES)
    speech = Speech(settings, logged)
    speech.check("rain")
    # Words that could not be read are not logged.
    speech.check("fogs")
    with pytest.raises(ApiError, match="132 bytes, these 69, and the limit is 200") as refused:
        speech.check("a fog")
    assert (refused.value.status, refused.value.code) == (422, "too_many_words")
    speech.said("rain")
    clock.now += 1
    with pytest.raises(ApiError, match="have 200 bytes"):
        speech.check("")
