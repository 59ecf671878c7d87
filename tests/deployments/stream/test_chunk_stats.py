"""What is told to Prometheus of a socket's chunks, with a clock of our own and without Ray."""

from __future__ import annotations

from collections import defaultdict

import pytest

from deployments.observability.instruments import Counter, Histogram
from deployments.stream import chunk_stats, pacing
from deployments.stream.chunk_stats import ChunkStats, ChunkTimes
from deployments.stream.pacing import ChunkClock
from tests.stopped_clock import StoppedClock

FRAME_S = 1 / 24


@pytest.fixture
def time(monkeypatch) -> StoppedClock:
    clock = StoppedClock()
    monkeypatch.setattr(pacing, "time", clock)
    monkeypatch.setattr(chunk_stats, "time", clock)
    return clock


@pytest.fixture
def counted(monkeypatch) -> dict[str, float]:
    """What counters were given, by name."""
    totals: dict[str, float] = defaultdict(float)

    def add(self: Counter, amount: float = 1.0, *, tag: str = "") -> None:
        totals[self.name.removeprefix("gamegen_")] += amount

    monkeypatch.setattr(Counter, "add", add)
    return totals


@pytest.fixture
def observed(monkeypatch) -> dict[str, list[float]]:
    """What histograms were given, by name or stage."""
    values: dict[str, list[float]] = defaultdict(list)

    def observe(self: Histogram, value: float, *, tag: str = "") -> None:
        values[tag or self.name.removeprefix("gamegen_")].append(value)

    monkeypatch.setattr(Histogram, "observe", observe)
    return values


def show(
    time: StoppedClock, clock: ChunkClock, stats: ChunkStats, num_bytes: int | None = 900, **times
) -> None:
    """Shows one chunk at its pace."""
    start_s, interval_s = clock.show()
    for frame in range(4):
        time.now = max(time.now, start_s + frame * interval_s)
        stats.add_file(num_bytes)
    chunk = ChunkTimes(times.get("arrived_s"), times.get("begun_s", 0.0), times.get("drawn_s", 0.0))
    stats.finish_chunk(interval_s, chunk, times.get("decoded_s"))


def test_chunks_in_time_are_neither_late_nor_stalls(time, counted, observed):
    clock = ChunkClock()
    stats = ChunkStats(clock)
    for _ in range(3):
        show(time, clock, stats)
    assert counted["chunks_shown_total"] == 3
    assert counted["chunks_late_total"] == counted["stalls_total"] == counted["chunks_off_pace_total"] == 0
    assert counted["frames_sent_total"] == 12 and counted["frame_bytes_total"] == 12 * 900
    assert observed["frame_gap_seconds"] == pytest.approx([FRAME_S] * 3)


@pytest.mark.parametrize("late_s, late, stalls", [(0.03, 0, 0), (0.06, 1, 0), (0.3, 1, 1)])
def test_a_chunk_is_late_by_what_its_first_frame_came_after_the_last_ones_end(
    time, counted, observed, late_s, late, stalls
):
    clock = ChunkClock()
    stats = ChunkStats(clock)
    show(time, clock, stats)
    time.now = clock.shown_until_s + late_s
    show(time, clock, stats)
    assert (counted["chunks_late_total"], counted["stalls_total"]) == (late, stalls)
    assert observed["frame_gap_seconds"][-1] == pytest.approx(FRAME_S + late_s)


def test_a_chunk_that_was_never_decoded_is_late(time, counted, observed):
    clock = ChunkClock()
    stats = ChunkStats(clock)
    stats.finish_chunk(clock.show()[1], ChunkTimes(None, 0, 0), None)
    assert counted["chunks_late_total"] == 1 and counted["frames_sent_total"] == 0 and not observed


def test_slow_model_is_off_pace_though_nothing_is_late(time, counted, observed):
    clock = ChunkClock()
    stats = ChunkStats(clock)
    clock.stepped(0.4, is_typical=True)
    for _ in range(2):
        show(time, clock, stats)
    assert counted["chunks_off_pace_total"] == 2 and counted["chunks_late_total"] == 0


def test_half_the_frame_rate_on_request_is_no_slow_model(time, counted, observed):
    clock = ChunkClock(target_fps=12)
    show(time, clock, ChunkStats(clock))
    assert counted["chunks_off_pace_total"] == 0


def test_frames_that_were_dropped_or_not_asked_for_are_not_sent(time, counted, observed):
    clock = ChunkClock()
    stats = ChunkStats(clock)
    show(time, clock, stats, num_bytes=0)
    show(time, clock, stats, num_bytes=None)
    assert counted["frames_dropped_total"] == 4 and counted["frames_sent_total"] == 0
    assert counted["chunks_shown_total"] == 2 and not observed["frame_gap_seconds"]


def test_frames_that_come_together_count_as_if_one_came_after_another(time, counted, observed):
    clock = ChunkClock()
    stats = ChunkStats(clock)
    for late_s in (0.0, 0.0, 0.1):
        start_s, interval_s = clock.show()
        time.now = start_s + late_s
        stats.add_file(2500, 4, interval_s)
        stats.finish_chunk(interval_s, ChunkTimes(None, 0.0, 0.0), None)
    assert counted["frames_sent_total"] == 12 and counted["frame_bytes_total"] == 3 * 2500
    assert observed["frame_gap_seconds"] == pytest.approx([FRAME_S, FRAME_S, FRAME_S + 0.1])
    stats.add_file(0, 4, FRAME_S)
    stats.finish_chunk(FRAME_S, ChunkTimes(None, 0.0, 0.0), None)
    assert counted["frames_dropped_total"] == 4 and counted["frames_sent_total"] == 12


def test_a_control_is_answered_once_and_its_stages_add_up(time, counted, observed):
    clock = ChunkClock()
    stats = ChunkStats(clock)
    show(time, clock, stats)
    due_s = clock.shown_until_s
    times = {
        "arrived_s": due_s - 0.2,
        "begun_s": due_s - 0.15,
        "drawn_s": due_s - 0.05,
        "decoded_s": due_s - 0.02,
    }
    show(time, clock, stats, **times)
    show(time, clock, stats, **times)
    assert observed["control_latency_seconds"] == pytest.approx([0.2])
    stages = [*observed["wait"], *observed["step"], *observed["decode"], *observed["send"]]
    assert stages == pytest.approx([0.05, 0.1, 0.03, 0.02])


def test_a_control_that_waited_for_the_world_itself_is_not_timed(time, counted, observed):
    clock = ChunkClock()
    show(time, clock, ChunkStats(clock), arrived_s=1.0, begun_s=99.0, drawn_s=99.5, decoded_s=99.6)
    assert not observed["control_latency_seconds"]
