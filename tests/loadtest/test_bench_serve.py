"""What `gamegen bench serve` measures of a real server."""

import json
from math import nan

import numpy as np
import pytest
from typer.testing import CliRunner

from loadtest.bench_serve.__main__ import app, figures
from loadtest.players.play_record import FRAME_DTYPE, PlayerStay


def test_players_of_a_running_server_are_measured(address, tmp_path):
    file = tmp_path / "serve.json"
    result = CliRunner().invoke(
        app, [address, "--sessions", "2", "--seconds", "4", "--json", str(file)], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    assert "from key to its first frame" in result.output
    found = json.loads(file.read_text())
    assert found["sessions"] == 2 and found["frames_per_s"] > 0
    assert found["stages_ms"]["step"] > 0
    assert found["key_to_frame_ms"]["p50"] > found["beyond_pacing_ms"]["p50"] > 0


def test_serving_is_compared_with_the_engine_by_itself(address, tmp_path):
    file = tmp_path / "cost.json"
    result = CliRunner().invoke(
        app,
        [address, "--bare", "--sessions", "2", "--seconds", "6", "--json", str(file)],
        env={"COLUMNS": "200"},
    )
    assert result.exit_code == 0, result.output
    assert "served / bare" in result.output
    found = json.loads(file.read_text())
    # Two players get at most 24 frames a second each, whoever draws them.
    assert all(0 < fps < 50 for fps in found["served_fps"] + found["bare_fps"])
    assert found["share"] == pytest.approx(np.mean(found["served_fps"]) / np.mean(found["bare_fps"]))
    served_ms, bare_ms = np.mean(found["served_first_ms"]), np.mean(found["bare_first_ms"])
    assert bare_ms > 0 and found["added_ms"] == pytest.approx(served_ms - bare_ms)


def test_orders_of_a_running_server_are_measured(address, tmp_path):
    file = tmp_path / "videos.json"
    result = CliRunner().invoke(
        app,
        [
            address,
            "--videos",
            "--direct",
            "--orders",
            "3",
            "--clients",
            "2",
            "--seconds",
            "1",
            "--json",
            str(file),
        ],
        env={"COLUMNS": "200"},
    )
    assert result.exit_code == 0, result.output
    assert "orders accepted a second" in result.output
    found = json.loads(file.read_text())
    assert found["accepted_per_s"] > 0 and found["completed_per_s"] > 0 and found["failed"] == 0
    assert found["look_ms"]["p95"] > 0 and found["clip_bytes"] > 1000


def test_a_server_that_is_not_there_is_named(refusal):
    assert "127.0.0.1:9" in refusal(app, "http://127.0.0.1:9")


def frames(*rows: tuple[float, int, float]) -> np.ndarray:
    """Frames by when they came, sequence and control timestamp."""
    found = np.zeros(len(rows), FRAME_DTYPE)
    found["at_s"], found["sequence"], found["control_timestamp"] = np.array(rows).T
    found["step_ms"], found["decode_ms"], found["wait_ms"] = 30, 10, 50
    return found


def test_gaps_drops_and_answers_are_counted():
    came = frames((0.0, 0, nan), (0.1, 1, nan), (0.5, 4, 1.0), (0.6, 5, 1.0), (0.7, 6, 2.0))
    result = figures([PlayerStay(frames=came, pressed={1.0: 0.25, 2.0: 0.55, 3.0: 0.69})], 1.0)
    assert result.underruns == 1 and result.longest_gap_ms == pytest.approx(400)
    assert result.dropped == 2
    assert result.frames_per_s == pytest.approx(4 / 0.7)
    assert result.key_to_frame_ms["p50"] == pytest.approx(200)
    assert result.beyond_pacing_ms["p50"] == pytest.approx(150)
    assert sum(result.stages_ms.values()) == pytest.approx(200)


def test_the_first_moments_do_not_count():
    played = PlayerStay(
        frames=frames((0.0, 0, nan), (3.0, 1, nan), (3.1, 2, nan)), pressed={1.0: 0.5, 2.0: 3.0}
    )
    settled = played.since(3.0)
    assert len(settled.frames) == 2 and list(settled.pressed) == [2.0]


def test_a_player_who_saw_nothing_is_an_error():
    with pytest.raises(ValueError, match="no frames"):
        figures([PlayerStay()], 1.0)


def test_more_players_than_places_are_an_error(address, client, nobody_else, refusal):
    assert "session 4 of 4: refused" in refusal(app, address, "--sessions", "4", "--seconds", "1")
    assert client.get("/v1/status").json()["sessions"]["live"] == 0
