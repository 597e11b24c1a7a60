"""The statistics against SciPy, textbook examples, and cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bagnet.experiments.measuring.statistics import (
    FEWEST,
    Interval,
    bootstrap,
    cohens_kappa,
    error_consistency,
    mcnemar,
    mean,
    pearson,
    spearman,
)


def pairs(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=n)
    return x, x**3 + rng.normal(size=n)


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    interval = mean(values)
    half = 1.96 * values.std() / math.sqrt(4000)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_intervals_contain_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    held = [
        interval.low <= 0.7 <= interval.high
        for interval in (bootstrap(np.mean, rng.random(200) < 0.7, samples=200) for _ in range(100))
    ]
    assert 0.9 <= np.mean(held) <= 0.99


def test_the_same_rows_give_the_same_interval_and_another_seed_another():
    x, _ = pairs()
    assert bootstrap(np.median, x) == bootstrap(np.median, x)
    assert bootstrap(np.median, x, seed=1) != bootstrap(np.median, x)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)]
)
def test_correlations_are_those_of_scipy(ours, theirs):
    x, y = pairs()
    interval = ours(x, y)
    assert interval.value == pytest.approx(theirs(x, y).statistic)
    assert interval.low < interval.value < interval.high
    assert ours(x, 2 * x + 1).low == pytest.approx(1)
    x, y = np.array([1, 2, 2, 3, 5, 5]), np.array([2, 1, 1, 7, 7, 7])  # with ties
    assert ours(x, y).value == pytest.approx(theirs(x, y).statistic)


def test_cohens_kappa_of_a_textbook():
    # Two raters of 50 grant proposals: 20 both yes, 15 both no, 5 and 10 only one yes.
    a = np.repeat([1, 1, 0, 0], [20, 5, 10, 15])
    b = np.repeat([1, 0, 1, 0], [20, 5, 10, 15])
    assert cohens_kappa(a, b).value == pytest.approx(0.4)
    assert cohens_kappa(a, a).value == 1


def test_error_consistency_is_zero_by_chance_and_one_for_the_same_errors():
    rng = np.random.default_rng(0)
    a, b = rng.random(4000) < 0.8, rng.random(4000) < 0.6
    interval = error_consistency(a, b)
    assert interval.low < 0 < interval.high
    assert abs(interval.value) < 0.05
    assert error_consistency(a, a).value == 1
    # Geirhos et al.: (observed - expected) / (1 - expected), expected = p q + (1 - p)(1 - q)
    c = a ^ (rng.random(4000) < 0.1)
    p, q = a.mean(), c.mean()
    expected = p * q + (1 - p) * (1 - q)
    by_hand = ((a == c).mean() - expected) / (1 - expected)
    assert error_consistency(a, c).value == pytest.approx(by_hand)


def test_mcnemar_is_the_binomial_tail():
    a = np.repeat([True, True, False, False], [30, 12, 2, 6])
    b = np.repeat([True, False, True, False], [30, 12, 2, 6])
    tail = sum(math.comb(14, k) for k in (0, 1, 2)) / 2**14
    assert mcnemar(a, b) == pytest.approx(2 * tail)
    assert mcnemar(a, a) == 1


def test_an_undefined_statistic_is_a_dash():
    constant = np.ones(10)
    for interval in (
        pearson(constant, np.arange(10)),
        error_consistency(constant, constant),
        cohens_kappa(constant.astype(int), constant.astype(int)),
    ):
        assert math.isnan(interval.value)
        assert f"{interval:.2f}" == "–"


def test_each_number_of_an_interval_is_formatted():
    assert f"{Interval(0.6667, 0.661, 0.672):.1%}" == "66.7% (66.1% to 67.2%)"


@pytest.mark.parametrize("statistic", [mean, lambda x: pearson(x, x), lambda x: cohens_kappa(x, x)])
def test_too_few_rows_are_one_clear_error(statistic):
    with pytest.raises(
        ValueError, match=f"4 rows are too few for a statistic, which needs {FEWEST}"
    ):
        statistic(np.arange(4))
