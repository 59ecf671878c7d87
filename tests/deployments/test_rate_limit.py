"""Rate limits, and the room of a session's log for instructions."""

from __future__ import annotations

import pytest

from deployments import rate_limit
from deployments.errors import ApiError
from deployments.rate_limit import INSTRUCTION_OVERHEAD_BYTES, FixedWindowLimiter, InstructionLimiter
from deployments.settings import IngressSettings
from gamegen.sessions.log import LoggedInstruction
from tests.stopped_clock import StoppedClock


@pytest.fixture
def clock(monkeypatch) -> StoppedClock:
    clock = StoppedClock()
    monkeypatch.setattr(rate_limit, "time", clock)
    return clock


def test_a_window_of_a_second_begins_with_the_first_event_after_the_last_window(clock):
    limiter = FixedWindowLimiter(2)
    assert [limiter.allow() for _ in range(4)] == [True, True, False, False]
    clock.now += 0.9
    assert not limiter.allow()
    clock.now += 0.1
    assert [limiter.allow() for _ in range(3)] == [True, True, False]


def test_words_come_so_many_times_a_second(clock):
    limiter = InstructionLimiter(IngressSettings(max_instructions_per_s=2), ())
    for _ in range(3):
        for _ in range(2):
            limiter.check("rain")
        with pytest.raises(ApiError, match="more than 2 instructions a second") as refused:
            limiter.check("snow")
        assert (refused.value.status, refused.value.code) == (429, "too_many_instructions")
        clock.now += 1


def test_the_words_of_a_session_have_an_end_also_those_of_its_other_sockets(clock):
    logged = [LoggedInstruction(0, "snö"), LoggedInstruction(7, "")]
    settings = IngressSettings(max_logged_words_bytes=4 + 4 + 3 * INSTRUCTION_OVERHEAD_BYTES)
    limiter = InstructionLimiter(settings, logged)
    limiter.check("rain")
    # Words that could not be read are not logged.
    limiter.check("fogs")
    with pytest.raises(ApiError, match="132 bytes, these 69, and the limit is 200") as refused:
        limiter.check("a fog")
    assert (refused.value.status, refused.value.code) == (422, "too_many_words")
    limiter.record("rain")
    clock.now += 1
    with pytest.raises(ApiError, match="have 200 bytes"):
        limiter.check("")
