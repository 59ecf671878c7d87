"""When chunks are begun and shown, by a clock that stands still."""

from __future__ import annotations

import pytest

from deployments.stream import pacing
from tests.stopped_clock import StoppedClock


@pytest.fixture
def clock(monkeypatch) -> StoppedClock:
    clock = StoppedClock()
    monkeypatch.setattr(pacing, "time", clock)
    return clock


def test_quick_model_is_shown_at_24_fps_and_waits_for_its_turn(clock):
    chunk = pacing.ChunkClock()
    chunk.stepped(0.05, is_typical=True)
    chunk.decoded(0.0, 0.05, [0.07] * 4)
    assert chunk.fps == pytest.approx(24)
    assert chunk.show() == (clock.now, pytest.approx(1 / 24))
    # The next chunk is due when this one has been shown, less the time it takes to make.
    assert chunk.step_delay_s() == pytest.approx(4 / 24 - 0.05 - 0.02)


def test_slow_model_is_spread_over_its_own_time_and_never_waits(clock):
    chunk = pacing.ChunkClock()
    chunk.stepped(0.4, is_typical=True)
    assert chunk.frame_interval_s == pytest.approx(0.1)
    chunk.show()
    clock.now += 0.1
    assert chunk.step_delay_s() == 0


def test_one_slow_chunk_does_not_set_the_pace(clock):
    chunk = pacing.ChunkClock()
    chunk.stepped(5.0, is_typical=False)
    assert chunk.fps == pytest.approx(24)


def test_late_is_what_is_shown_after_its_time_or_below_the_pace_that_was_asked_for(clock):
    quick, slow = pacing.ChunkClock(), pacing.ChunkClock()
    quick.stepped(0.05, is_typical=True)
    slow.stepped(0.18, is_typical=True)
    for chunk in (quick, slow):
        chunk.show()
    assert (quick.is_late, slow.is_late) == (False, True)
    slow.target_fps = 12
    clock.now += 0.18
    for chunk in (quick, slow):
        chunk.show()
    assert (quick.is_late, slow.is_late) == (False, False)
    clock.now += 0.25
    quick.show()
    # It was due 70 ms ago.
    assert quick.is_late


def test_a_chunk_is_begun_as_early_as_the_usual_one_needs(clock):
    steady, jumpy = pacing.ChunkClock(), pacing.ChunkClock()
    for i in range(101):
        for chunk, step_s in ((steady, 0.05 if i % 12 else 0.5), (jumpy, 0.07 if i % 2 else 0.05)):
            chunk.stepped(step_s, is_typical=True)
            chunk.decoded(0.0, step_s, [step_s + 0.02] * 4)
    assert steady.lead_s == pytest.approx(0.07)
    assert jumpy.lead_s == pytest.approx(0.08)
    assert jumpy.facts() == {"fps": 24.0, "step_ms": 60.0, "decode_ms": 20.0, "lead_ms": 80.0}


def test_a_slow_step_and_a_quick_decoding_even_out(clock):
    chunk = pacing.ChunkClock()
    for step_s, decode_s in ((0.05, 0.03), (0.06, 0.02), (0.07, 0.01)):
        chunk.decoded(10.0, 10.0 + step_s, [10.0 + step_s + decode_s] * 4)
    assert chunk.lead_s == pytest.approx(0.08)


def test_a_chunk_that_is_not_typical_sets_no_lead(clock):
    chunk = pacing.ChunkClock()
    chunk.decoded(0.0, 0.05, [0.07] * 4)
    chunk.decoded(0.0, 1.05, [1.07] * 4, is_typical=False)
    assert chunk.lead_s == pytest.approx(0.07)


def test_frames_that_are_shown_later_may_come_later(clock):
    chunk = pacing.ChunkClock()
    chunk.decoded(0.0, 0.05, [0.07, 0.1, 0.1, 0.1])
    assert chunk.lead_s == pytest.approx(0.07)
    chunk.decoded(0.0, 0.05, [0.07, 0.14, 0.14, 0.14])
    assert chunk.leads_s[-1] == pytest.approx(0.14 - 1 / 24)


def test_a_chunk_that_comes_a_little_late_moves_nothing(clock):
    """The page waits for such chunks; were each to move those after it, nothing would be on time."""
    chunk = pacing.ChunkClock()
    began, _ = chunk.show()
    clock.now += 4 / 24 + 0.02
    start, interval_s = chunk.show()
    assert start == pytest.approx(began + 4 / 24) and interval_s == pytest.approx(1 / 24)
    assert chunk.due_s == start and chunk.late_s == pytest.approx(0.02) and not chunk.is_late


def test_what_a_late_chunk_cost_is_made_up_for_little_by_little(clock):
    chunk = pacing.ChunkClock()
    began, _ = chunk.show()
    clock.now += 4 / 24 + 0.05
    start, interval_s = chunk.show()
    assert start == clock.now and interval_s == pytest.approx(0.96 / 24)
    for _ in range(10):
        clock.now = chunk.shown_until_s
        start, interval_s = chunk.show()
    assert start == pytest.approx(began + 11 * 4 / 24) and interval_s == pytest.approx(1 / 24)
    # A stop is not made up for.
    clock.now += 2
    assert chunk.show() == (clock.now, pytest.approx(1 / 24))
