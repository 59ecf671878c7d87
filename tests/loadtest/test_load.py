"""`gamegen load`: the crowd's plan, its figures and a run on a real server."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from deployments.stream.wire import HEADER_DTYPE, FrameHeader, frame_sequence, pack_fragment, pack_init
from gamegen.controls import KEYS
from loadtest.load.__main__ import app
from loadtest.load.arrivals import full_at_s, schedule
from loadtest.load.crowd import Counts, CrowdResult
from loadtest.load.load_figures import chunk_counts, figures, lateness_s
from loadtest.load.load_report import missed
from loadtest.load.server_memory import MemorySampler, Process, growth, is_local, server_processes
from loadtest.players.key_tracks import load_tracks
from loadtest.players.play_record import FRAME_DTYPE, FrameRecorder, PlayerStay
from tests.serving import end_sessions


def even_frames(count: int, lag_s: float = 5.0, **columns: object) -> np.ndarray:
    """Frames at 24 a second, each due when it was made and here so much later, from sequence 0 on."""
    frames = np.zeros(count, FRAME_DTYPE)
    number = np.arange(count)
    frames["due_ms"] = 1000 * number / 24
    frames["at_s"] = number / 24 + lag_s
    frames["sequence"], frames["chunk"], frames["frame"] = number, number // 4, number % 4
    frames["control_timestamp"] = np.nan
    for name, value in columns.items():
        frames[name] = value
    return frames


def stay(frames: np.ndarray, **parts: object) -> PlayerStay:
    """A stay that ends with its last frame."""
    times = frames["at_s"]
    return PlayerStay(frames=frames, joined_s=float(times[0]) - 0.5, left_s=float(times[-1]) + 0.01, **parts)  # type: ignore[arg-type]


def test_the_same_arguments_plan_the_same_crowd():
    visits = schedule(4, 0.5, 10, 60, seed=3)
    assert visits == schedule(4, 0.5, 10, 60, seed=3) != schedule(4, 0.5, 10, 60, seed=4)
    assert [v.number for v in visits] == list(range(len(visits)))
    assert all(0 < v.arrives_s < v.leaves_s <= 600 for v in visits)


def test_a_planned_crowd_has_the_size_rate_and_stay_that_were_asked():
    visits = schedule(20, 2.0, 600, 90, seed=1)
    moves = sorted([(v.arrives_s, 1) for v in visits] + [(v.leaves_s, -1) for v in visits])
    at_once = np.cumsum([step for _, step in moves])
    assert at_once.max() == 20
    assert np.mean([v.leaves_s - v.arrives_s for v in visits]) == pytest.approx(90, rel=0.1)
    # About one place is free for the half second until the next player comes.
    mean = sum(v.leaves_s - v.arrives_s for v in visits) / 36000
    assert 18.5 < mean < 20
    # They come as a Poisson process: until all places are taken, every half second on average.
    full_s = full_at_s(visits, 20)
    assert full_s is not None and 3 < full_s < 30
    assert full_at_s(visits, 21) is None


@pytest.mark.parametrize("wrong", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, -1, 1), (1, 1, 1, 0)])
def test_a_plan_needs_numbers_above_zero(wrong):
    with pytest.raises(ValueError, match="above 0"):
        schedule(*wrong, seed=0)


def test_tracks_play_known_keys_round_and_round():
    for track in load_tracks():
        assert {key for event in track.events for key in event.keys} <= set(KEYS)
        start_s = 0.7 * track.length_s
        held, events = set(track.held(start_s)), track.play_from(start_s)
        last_s = start_s
        for event, _ in zip(events, range(3 * len(track.events)), strict=False):
            assert event.at_s >= last_s
            last_s = event.at_s
            # Nothing goes down twice or comes up that is not down.
            assert held.isdisjoint(event.keys) if event.is_down else held >= set(event.keys)
            held = held | set(event.keys) if event.is_down else held - set(event.keys)
        assert last_s > 2 * track.length_s


def test_frames_are_noted_as_they_came():
    recorder = FrameRecorder()
    header = FrameHeader(
        frame=3,
        sequence=70000,
        chunk=17,
        control_timestamp=12.5,
        step_ms=30.0,
        decode_ms=10.0,
        wait_ms=50.0,
        due_ms=123456.75,
    )
    message = header.pack() + b"jpeg"
    assert HEADER_DTYPE.itemsize == len(header.pack()) and frame_sequence(message) == 70000
    assert recorder.take(message, 2) == 70000
    (frame,) = recorder.frames()
    assert frame["num_bytes"] == len(message) and frame["socket"] == 2
    for name in (
        "frame",
        "sequence",
        "chunk",
        "control_timestamp",
        "step_ms",
        "decode_ms",
        "wait_ms",
        "due_ms",
    ):
        assert frame[name] == getattr(header, name), name
    with pytest.raises(ValueError, match="not a frame"):
        recorder.take(b"GG\x01" + message[3:], 0)


def test_frames_of_a_fragment_come_one_after_another_and_its_bytes_once():
    recorder = FrameRecorder()
    header = FrameHeader(
        frame=0,
        sequence=96,
        chunk=24,
        control_timestamp=12.5,
        step_ms=30.0,
        decode_ms=10.0,
        wait_ms=50.0,
        due_ms=1000.0,
    )
    init, message = pack_init(bytes(600)), pack_fragment(header, 50.0, bytes(2500))
    assert recorder.take(init, 1) is None and recorder.num_frames == 0
    assert recorder.take(message, 1) == 99
    assert recorder.num_frames == 4
    frames = recorder.frames()
    assert frames["sequence"].tolist() == [96, 97, 98, 99] and frames["frame"].tolist() == [0, 1, 2, 3]
    assert frames["num_bytes"].tolist() == [len(init) + len(message), 0, 0, 0]
    assert np.diff(frames["at_s"]) == pytest.approx([0.05] * 3)
    assert frames["due_ms"].tolist() == [1000, 1050, 1100, 1150]
    assert set(frames["control_timestamp"].tolist()) == {12.5} and set(frames["socket"].tolist()) == {1}
    # Another session's frames may be files.
    assert recorder.take(header.pack() + b"jpeg", 2) == 96 and recorder.num_frames == 5


def test_lateness_is_counted_from_the_quickest_of_the_last_frames():
    frames = even_frames(200)
    frames["at_s"][50] += 0.03
    frames["at_s"][100:] -= 0.02
    late = lateness_s(frames)
    assert late[50] == pytest.approx(0.03) and late[99] == pytest.approx(0) and late[100] == pytest.approx(0)
    frames = even_frames(200)
    frames["at_s"][1:] += 0.1
    # What was quick once is forgotten in the end.
    assert lateness_s(frames)[95] == pytest.approx(0.1) and lateness_s(frames)[96] == pytest.approx(0)


def test_chunks_that_come_late_or_not_at_all_are_missed():
    frames = even_frames(80)
    frames["at_s"][8] += 0.050
    frames["at_s"][13] += 0.050
    frames["at_s"][16] += 0.040
    # Chunk 2 came late, of chunk 3 only a later frame, chunk 4 just in time, chunk 5's first frame never came.
    kept = frames[frames["sequence"] != 20]
    assert chunk_counts(stay(kept)) == (20, 18, 17, 17)


def test_chunks_due_later_than_the_pace_are_off_the_pace():
    frames = even_frames(80)
    frames["due_ms"][40:] += 60
    frames["at_s"][40:] += 0.060
    chunks, in_time, pairs, on_pace = chunk_counts(stay(frames))
    assert (chunks, in_time) == (20, 20), "the server said itself that it would be late"
    assert (pairs, on_pace) == (19, 18)


def test_each_socket_has_its_own_clock():
    frames = np.concatenate([even_frames(40), even_frames(40, socket=1)])
    frames["due_ms"][40:] -= 1e6
    assert chunk_counts(stay(frames)) == (20, 20, 18, 18)


def test_figures_of_a_crowd():
    pressed = even_frames(241)
    pressed["control_timestamp"][24:28] = 7.0
    pressed["wait_ms"], pressed["step_ms"], pressed["decode_ms"] = 50, 30, 10
    halting = even_frames(240)
    halting["at_s"][120:] += 1.0
    halting["sequence"][200:] += 3
    halting["num_bytes"] = 1000
    first = stay(pressed, pressed={7.0: float(pressed["at_s"][24]) - 0.2, 8.0: 9.0})
    second = stay(halting, reconnects=1, queued=2, lost="4410 ended")
    unseen = PlayerStay(joined_s=5.0, left_s=10.0)
    result = figures(
        CrowdResult(counts=Counts(opened=3), stays=(first, second, unseen), began_s=0.0, ended_s=20.0)
    )
    assert result.fps_mean == pytest.approx((24 + 239 / (239 / 24 + 1)) / 2)
    assert result.stalls == 1 and result.longest_gap_ms == pytest.approx(1000 + 1000 / 24)
    assert result.stalls_per_minute == pytest.approx(60 / (240 / 24 + 239 / 24 + 1), rel=0.01)
    assert result.dropped == 3 and result.saw_nothing == 1
    assert result.lost == {"4410 ended": 1} and result.queued == 2
    assert result.bytes_per_s == pytest.approx(240 * 1000 / 20)
    assert result.bytes_per_frame == pytest.approx(240 * 1000 / 481)
    assert result.key_to_frame_ms and result.key_to_frame_ms["p50"] == pytest.approx(200)
    assert {name: round(ms["p50"]) for name, ms in result.stages_ms.items()} == {
        "wait": 50,
        "step": 30,
        "decode": 10,
        "rest": 110,
    }
    assert result.players_max == 3
    assert result.players_mean == pytest.approx((10.51 + 11.47 + 5) / 20, rel=0.01)


def test_a_picture_that_stopped_before_its_player_left_is_a_stall():
    frames = even_frames(240)
    frozen = PlayerStay(frames=frames, joined_s=4.0, left_s=float(frames["at_s"][-1]) + 10)
    result = figures(CrowdResult(counts=Counts(), stays=(frozen,), began_s=0.0, ended_s=20.0))
    assert result.stalls == 1 and result.longest_gap_ms == pytest.approx(10_000)
    assert result.fps_mean == pytest.approx(239 / (239 / 24 + 10))


def test_nobody_who_played_has_no_figures_and_misses_every_limit():
    result = figures(CrowdResult(counts=Counts(refused=4), stays=(), began_s=0.0, ended_s=10.0))
    assert (result.fps_mean, result.attainment, result.key_to_frame_ms) == (None, None, None)
    sentences = missed(result, {"attainment": 0.9, "fps_mean": None})
    assert sentences == ["attainment is not known: at least 0.9 was required"]


def test_growth_is_the_slope_of_the_samples():
    at_s = [float(t) for t in range(0, 300, 10)]
    noise = np.random.default_rng(0).normal(0, 1, len(at_s))
    found = growth(at_s, [500 + 3 * t / 60 + n for t, n in zip(at_s, noise.tolist(), strict=True)])
    assert found.low is not None and found.high is not None and found.r_squared is not None
    assert found.low < 3 < found.high and found.r_squared > 0.9
    assert growth([0.0, 1.0], [5.0, 6.0]).slope_mb_per_minute is None


def test_the_processes_of_a_server_are_its_ray_session_without_the_players():
    session = "session_2026-01-02_03-04-05_678901_10"
    mine = os.getpid()
    running = [
        Process(mine, 1, "gamegen load"),
        Process(mine + 1, mine, "player"),
        Process(20, mine, f"/ray/raylet --store=/tmp/ray/{session}/sockets"),
        Process(21, 20, "ray::ProxyActor.run"),
        Process(22, 20, "ray::ServeReplica:gamegen:World"),
        Process(23, mine, f"/ray/gcs_server --log_dir=/tmp/ray/{session}/logs"),
        Process(30, 1, "ray::ServeReplica:another:World"),
    ]
    assert [p.pid for p in server_processes(21, running)] == [20, 21, 22, 23]
    assert [p.name for p in server_processes(21, running)][2] == "ray::ServeReplica:gamegen:World"
    assert [p.pid for p in server_processes(30, running)] == [30]
    assert [p.pid for p in server_processes(None, running)] == [21, 22, 30]


def test_memory_is_left_out_where_the_server_is_elsewhere():
    assert is_local("http://localhost:8000") and not is_local("http://192.0.2.1:8000")


@dataclass(frozen=True)
class Report:
    """What the command printed, and what it wrote to a file."""

    exit_code: int
    output: str
    found: dict[str, Any]

    @property
    def figures(self) -> dict[str, Any]:
        return self.found["figures"]

    @property
    def counts(self) -> dict[str, Any]:
        return self.figures["counts"]


def load(address: str, folder: Path, *arguments: str) -> Report:
    """Has a crowd play."""
    file = folder / "load.json"
    result = CliRunner().invoke(app, [address, *arguments, "--json", str(file)], env={"COLUMNS": "200"})
    return Report(result.exit_code, result.output, json.loads(file.read_text()))


@pytest.fixture(scope="module")
def crowd(address: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Four players who come at once and stay, where there is room for three."""
    end_sessions(address)
    arguments = (
        "--sessions 4 --arrival-rate 20 --minutes 0.08 --mean-stay 1000 --processes 2 --require-fps 1000"
    )
    return load(address, tmp_path_factory.mktemp("crowd"), *arguments.split())


def test_a_crowd_plays_on_a_running_server(crowd, client):
    assert "from key to its first frame" in crowd.output and "memory of the server" in crowd.output
    assert crowd.counts["opened"] == 3 and crowd.counts["frames"] > 0
    assert (crowd.counts["failed"], crowd.counts["lost"], crowd.figures["errors"]) == (0, 0, 0)
    assert 0 <= crowd.figures["attainment"] <= 1 and crowd.figures["key_to_frame_ms"]["p50"] > 0
    assert any("World" in name for name in crowd.figures["memory"]["by_name"])
    assert client.get("/v1/status").json()["sessions"]["live"] == 0


def test_players_beyond_the_limit_are_refused_and_a_missed_limit_is_named(crowd):
    assert crowd.exit_code == 1
    rows = {
        row[0].strip(): row[1].strip()
        for line in crowd.output.splitlines()
        if len(row := line.split("│")[1:-1]) == 2
    }
    assert rows["sessions opened"] == "3" and rows["sessions lost"] == "0"
    # The one who is refused is told to come again in five seconds at least, when this run is over.
    assert rows["refused / of them turned away for good"] == "1 / 1"
    assert "at least 1000 was required" in crowd.output


def test_a_crowd_on_thin_links_gets_as_many_frames_of_fewer_bytes(crowd, address, nobody_else, tmp_path):
    arguments = "--sessions 1 --arrival-rate 10 --minutes 0.08 --mean-stay 100 --format fmp4"
    thin = load(address, tmp_path, *arguments.split())
    assert thin.exit_code == 0, thin.output
    assert [report.found["config"]["frame_format"] for report in (crowd, thin)] == ["jpeg", "fmp4"]
    assert (thin.counts["failed"], thin.counts["lost"], thin.figures["errors"]) == (0, 0, 0)
    assert thin.counts["frames"] > 8
    assert thin.figures["bytes_per_frame"] < 0.8 * crowd.figures["bytes_per_frame"]


@pytest.mark.long
def test_players_who_leave_make_room_for_others(address, client, nobody_else, tmp_path):
    """The short tests prove all but that places are taken again: their players stay to the end."""
    arguments = "--sessions 2 --arrival-rate 4 --minutes 0.15 --mean-stay 4 --processes 2"
    report = load(address, tmp_path, *arguments.split())
    assert report.exit_code == 0, report.output
    # Whoever stays for a blink may be gone before a busy machine lets them in.
    assert report.counts["opened"] + report.counts["turned_away"] == len(schedule(2, 4, 0.15, 4, 0))
    assert report.counts["opened"] > 2
    assert (report.counts["failed"], report.counts["lost"], report.figures["errors"]) == (0, 0, 0)
    assert client.get("/v1/status").json()["sessions"]["live"] == 0


def test_a_server_that_is_not_there_is_named(refusal):
    assert "127.0.0.1:9" in refusal(app, "http://127.0.0.1:9")


def test_memory_of_processes_that_are_named_is_sampled():
    sampler = MemorySampler("http://127.0.0.1:9", [os.getpid()])
    assert sampler.memory() is None
    sampler.sample()
    memory = sampler.memory()
    assert memory is not None and memory.total.first_mb > 10


def test_memory_that_fills_up_in_the_first_half_does_not_grow_in_the_second():
    sampler = MemorySampler("http://127.0.0.1:9")
    filling = [100.0, 160.0, 190.0, 200.0, 200.0, 200.0, 200.0]
    for i, resident_mb in enumerate(filling):
        sampler.add(10.0 * i, {"a": resident_mb, "b": 50.0})
    memory = sampler.memory()
    assert memory is not None and memory.total.slope_mb_per_minute > 60
    assert memory.second_half.slope_mb_per_minute == pytest.approx(0)
    assert memory.second_half.samples == 4 and memory.by_name["b"].highest_mb == 50


def test_pace_is_measured_against_the_rate_asked_for():
    frames = even_frames(80)
    frames["at_s"] *= 2
    frames["due_ms"] *= 2
    assert chunk_counts(stay(frames), fps=12)[2:] == (19, 19)
    assert chunk_counts(stay(frames))[2:] == (19, 0)
