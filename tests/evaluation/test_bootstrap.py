"""Intervals that hold the truth as often as they say, and draws that pair reports."""

import numpy as np
import pytest

from gamegen.evaluation import bootstrap


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    samples = np.random.default_rng(0).exponential(2.0, (300, 64))
    held = [e.low <= 2.0 <= e.high for e in map(bootstrap.mean_of, samples)]
    # 95 % promised; a percentile interval of a skewed mean falls a little short, and 300 trials scatter by 1.3 %.
    assert 0.90 <= np.mean(held) <= 0.99


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(1).normal(5, 3, 400)
    result = bootstrap.mean_of(values)
    assert result.value == pytest.approx(values.mean())
    assert (result.high - result.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.15)


def test_draws_depend_on_the_number_of_units_alone():
    assert np.array_equal(bootstrap.draws(16), bootstrap.draws(16))
    assert bootstrap.draws(16).shape == (bootstrap.REPLICATES, 16)


def test_a_share_that_all_agree_on_still_has_a_width():
    everyone = bootstrap.share_of(np.ones(64, bool))
    # The rule of three says 3/64 for a one-sided bound; two-sided it is 1 - .025^(1/64).
    assert everyone.value == everyone.high == 1
    assert everyone.low == pytest.approx(0.025 ** (1 / 64), rel=1e-6)
    assert bootstrap.share_of(np.zeros(64, bool)).high == pytest.approx(1 - 0.025 ** (1 / 64), rel=1e-6)


def test_any_statistic_of_units_gets_an_interval():
    values = np.arange(101.0)
    result = bootstrap.estimate(lambda i: float(np.median(values[i])), 101)
    assert result.value == 50 and 25 < result.low < 50 < result.high < 75


def test_no_unit_is_refused():
    with pytest.raises(ValueError, match="0 seeds or clips: an interval needs at least 1"):
        bootstrap.mean_of(np.zeros(0))


def test_a_statistic_that_repeats_enlarge_keeps_its_value_inside():
    values = np.random.default_rng(2).normal(0, 1, 30)
    lowest = bootstrap.estimate(lambda i: float(values[i].min()), 30)
    assert np.mean(lowest.replicates) > lowest.value
    assert lowest.low < lowest.value < lowest.high
