"""Which of two reports is better, by known answers."""

import json

import numpy as np
import pytest

from gamegen.evaluation import bootstrap
from gamegen.evaluation.comparison import compare
from gamegen.evaluation.evaluation_report import Curve, EvaluationReport, Figure, read_report, write_report
from gamegen.evaluation.metrics import DETAIL, IMAGE_DISTANCE, METRICS, STILL, TURNS, Metric

NUM_SEEDS = 64


def share(num_obeying: int, units: str = "64 seeds from 0") -> Figure:
    """Of 64 seeds the first ones obey."""
    obeyed = np.arange(NUM_SEEDS) < num_obeying
    return Figure.of(bootstrap.share_of(obeyed), units)


def mean(level: float) -> Figure:
    """Values of 64 seeds that differ much among themselves, always in the same way."""
    values = np.random.default_rng(0).normal(level, 1, NUM_SEEDS)
    return Figure.of(bootstrap.mean_of(values), "64 seeds from 0")


def test_better_somewhere_and_worse_nowhere_beats():
    verdict = compare({TURNS: share(64), STILL: mean(0.5)}, {TURNS: share(50), STILL: mean(0.5)})
    assert verdict.beats and verdict.equal == (STILL,)
    assert verdict.better[0].startswith(f"{TURNS}: 0.781 [0.6")
    assert "-> 1.000 [0.944, 1.000]" in verdict.better[0]


@pytest.mark.parametrize(
    ("candidate", "current"),
    [
        ({TURNS: share(64), STILL: mean(0.6)}, {TURNS: share(50), STILL: mean(0.5)}),
        ({TURNS: share(60)}, {TURNS: share(60)}),
        ({TURNS: share(64)}, {TURNS: share(63)}),
    ],
    ids=["worse elsewhere", "equal", "one seed of 64"],
)
def test_anything_else_does_not(candidate, current):
    assert not compare(candidate, current).beats


def test_pairing_finds_a_small_step_that_intervals_alone_would_hide():
    worse, better = mean(0.5), mean(0.45)
    assert better.low < worse.value < better.high
    assert compare({STILL: better}, {STILL: worse}).better


@pytest.mark.parametrize(("old", "new"), [(0.4, 0.8), (2.0, 1.3), (0.4, 1.8)])
def test_near_to_one_counts_above_and_below(old, new):
    exact = {value: Figure.of(bootstrap.mean_of(np.full(4, value)), "4 seeds") for value in (old, new)}
    assert compare({DETAIL: exact[new]}, {DETAIL: exact[old]}).beats
    assert not compare({DETAIL: exact[old]}, {DETAIL: exact[new]}).beats


def test_a_check_cannot_be_skipped_to_win():
    verdict = compare({TURNS: share(64)}, {TURNS: share(32), STILL: mean(0.2)})
    assert verdict.worse[0].endswith("-> not measured") and not verdict.beats


def test_other_worlds_are_not_compared():
    with pytest.raises(ValueError, match="evaluate both on equal ones"):
        compare({TURNS: share(64)}, {TURNS: share(32, "64 seeds from 7")})


def test_the_first_report_of_a_model_beats_nothing_at_all():
    assert compare({TURNS: share(1)}, {}).beats
    assert not compare({}, {}).beats


def test_figures_that_only_inform_do_not_decide():
    name = "motion smoothness"
    assert not METRICS[name].decides
    assert not compare({name: share(64)}, {name: share(1)}).beats
    assert METRICS[IMAGE_DISTANCE].decides


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [((0.5, 0.4, 0.6), "reached"), ((0.1, 0.0, 0.2), "missed"), ((0.5, 0.2, 0.8), "reached, unsure")],
)
def test_targets_are_reached_missed_or_unsure(figure, verdict):
    value, low, high = figure
    measured = Figure(value=value, low=low, high=high, units="")
    assert Metric(group="", goal="higher", target=(0.3, None)).reached(measured) == verdict
    assert Metric(group="", goal="higher").reached(measured) == ""


def test_a_report_comes_back(tmp_path):
    curve = Curve(x_s=(2.0, 4.0), value=(1.0, 2.0), low=(0.5, 1.5), high=(1.5, 2.5), real=3.0)
    report = EvaluationReport(
        checkpoint="nano",
        weights_sha256="ab",
        figures={TURNS: share(3)},
        curves={"x": curve},
        skipped=("nothing",),
        wall_s=1.5,
    )
    write_report(report, tmp_path / "deep" / "report.json")
    assert read_report(tmp_path / "deep" / "report.json") == report


def test_a_broken_report_is_named(tmp_path):
    file = tmp_path / "report.json"
    for text, words in (("{", "cannot read"), (json.dumps({"figures": {}}), "missing key")):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_report(file)
