"""What `gamegen bench recovery` says of frames that came or did not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from cluster.recovery.__main__ import app
from cluster.recovery.recovery_figures import RecoveryFigures, figures
from cluster.recovery.recovery_report import missed, table, write_json
from cluster.recovery.trials import KillOutcome, Trials
from loadtest.players.play_record import FRAME_DTYPE, PlayerStay


def stay(*pieces: tuple[float, int, int]) -> PlayerStay:
    """Frames at 24 a second: pieces of (when it begins in seconds, its first sequence, how many)."""
    frames = np.zeros(sum(count for *_, count in pieces), FRAME_DTYPE)
    begin = 0
    for at_s, sequence, count in pieces:
        part = frames[begin : begin + count]
        part["at_s"] = at_s + np.arange(count) / 24
        part["sequence"] = sequence + np.arange(count)
        begin += count
    return PlayerStay(frames=frames)


def of_one_kill(*stays: PlayerStay) -> RecoveryFigures:
    """Everybody plays from 0 s on, something is killed at 4 s, and it is over at 8 s."""
    return figures(Trials([KillOutcome(kind="worker", at_s=4.0, whole_s=7.0, until_s=8.0)], [*stays]))[0]


def test_a_picture_that_goes_on_did_not_stop():
    result = of_one_kill(stay((0.0, 0, 240)))
    assert (result.lost, result.stopped, result.gap_s, result.skipped_chunks) == (0, 0, None, 0)
    assert result.whole_s.max == pytest.approx(3.0)


def test_the_longest_gap_after_the_kill_counts_and_what_was_left_out():
    # The gap of three seconds was before the kill.
    early = stay((0.0, 0, 12), (3.5, 12, 200))
    # Frames 96 to 103 are two chunks that never came.
    late = stay((0.0, 0, 96), (5.5, 104, 100))
    result = of_one_kill(early, late)
    assert (result.sessions, result.stopped, result.out_of_order) == (2, 1, 0)
    assert result.gap_s and result.gap_s.max == pytest.approx(5.5 - 95 / 24)
    assert (result.skipped_chunks, result.most_skipped) == (2, 2)


def test_a_chunk_that_was_shown_in_part_is_not_skipped():
    assert of_one_kill(stay((0.0, 0, 97), (5.0, 100, 100))).skipped_chunks == 0


def test_a_session_that_begins_anew_is_out_of_order():
    assert of_one_kill(stay((0.0, 0, 96), (5.0, 0, 100))).out_of_order == 1


def test_a_session_without_frames_afterwards_is_lost():
    result = of_one_kill(stay((0.0, 0, 90)), PlayerStay())
    assert (result.lost, result.stopped) == (2, 0)
    assert "2 of 2 sessions" in missed([result], 5.0)[0]
    assert not missed([result], None)


def test_pauses_that_are_too_long_are_told(tmp_path):
    result = of_one_kill(stay((0.0, 0, 96), (7.0, 96, 100)))
    assert "p95 = 3.04 s" in missed([result], 3.0)[0] and not missed([result], 4.0)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(1, [result]))
    rows = dict(
        [cell.strip() for cell in cells]
        for line in console.export_text().splitlines()
        if len(cells := line.split("│")[1:-1]) == 2
    )
    assert rows["pictures that stopped for over 250 ms"] == "1 of 1"
    assert rows["p95"] == rows["at most"] == "3.04 s" and rows["sessions lost"] == "0 of 1"
    assert rows["chunks skipped, at most in one session"] == "0, 0"
    assert rows["all replicas back after, p50"] == "3.00 s"
    write_json(tmp_path / "out.json", {"kills": 1}, [result])
    assert '"kind": "worker"' in (tmp_path / "out.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--kinds", "world,planet"], "planet: use some of"), (["--sessions", "99"], "lets 8 play")],
)
def test_wrong_numbers_are_refused_before_anything_starts(arguments, sentence, refusal):
    assert sentence in refusal(app, *arguments)
