"""Which of two reports is better, by known answers."""

import json

import pytest

from gamegen.evaluation.comparison import METRICS, compare
from gamegen.evaluation.report import EvaluationReport, read_report, write_report

TURNS, STILL, DETAIL = (
    "turns: flow left > 0 > right",
    "still: speed as share of walking",
    "long play: detail / real clips",
)


def test_better_somewhere_and_worse_nowhere_beats():
    verdict = compare({TURNS: 1.0, STILL: 0.5}, {TURNS: 0.9, STILL: 0.5})
    assert verdict.beats
    assert verdict.better == (f"{TURNS}: 0.900 -> 1.000",) and verdict.equal == (STILL,)


@pytest.mark.parametrize(
    ("candidate", "current"),
    [
        ({TURNS: 1.0, STILL: 0.6}, {TURNS: 0.9, STILL: 0.5}),
        ({TURNS: 1.0}, {TURNS: 1.0}),
        ({TURNS: 1.0}, {TURNS: 0.97}),
    ],
    ids=["worse elsewhere", "equal", "within the margin"],
)
def test_anything_else_does_not(candidate, current):
    assert not compare(candidate, current).beats


@pytest.mark.parametrize(("old", "new"), [(0.4, 0.8), (2.0, 1.3), (0.4, 1.8)])
def test_near_to_one_counts_above_and_below(old, new):
    assert compare({DETAIL: new}, {DETAIL: old}).beats
    assert not compare({DETAIL: old}, {DETAIL: new}).beats


def test_a_check_cannot_be_skipped_to_win():
    verdict = compare({TURNS: 1.0}, {TURNS: 0.5, STILL: 0.2})
    assert verdict.worse == (f"{STILL}: 0.200 -> not measured",)


def test_the_first_report_of_a_model_beats_nothing_at_all():
    assert compare({TURNS: 0.1}, {}).beats
    assert not compare({}, {}).beats


def test_every_deciding_figure_is_one_that_the_evaluation_reports(tmp_path):
    from tests.evaluation.test_control import small_report

    assert set(METRICS) <= set(small_report().figures)


def test_a_report_comes_back(tmp_path):
    report = EvaluationReport("ab", 7, 2, {TURNS: 1.0}, {"x": [1.0, 2.0]})
    write_report(report, tmp_path / "deep" / "report.json")
    assert read_report(tmp_path / "deep" / "report.json") == report


def test_a_broken_report_is_named(tmp_path):
    file = tmp_path / "report.json"
    for text, words in (("{", "cannot read"), (json.dumps({"figures": {}}), "missing key")):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_report(file)
