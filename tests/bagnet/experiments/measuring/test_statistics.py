"""The statistics against SciPy, textbook examples, and cases whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from bagnet.experiments.measuring.statistics import (
    Interval,
    bootstrap,
    holm,
    kappa,
    mean,
    mean_band,
    noise_ceiling,
    noiseless_pearson,
    pearson,
    share,
    share_of,
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


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"),
    [
        (0, 20, 0, 0.1611),  # a bootstrap would give 0 to 0
        (20, 20, 0.8389, 1),
        (15, 50, 0.1910, 0.4375),
        (0, 1, 0, 0.7935),
    ],
)
def test_shares_have_wilsons_interval(hits, rows, low, high):
    interval = share(np.arange(rows) < hits)
    assert interval == share_of(hits, rows)
    assert interval.value == hits / rows
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


def test_the_band_of_curves_is_the_interval_of_the_mean_at_each_point():
    curves = np.random.default_rng(3).random((30, 4))
    for point, (low, high) in enumerate(mean_band(curves).T):
        interval = mean(curves[:, point])
        assert (low, high) == pytest.approx((interval.low, interval.high))


def test_the_same_rows_give_the_same_interval():
    x, _ = pairs()
    assert bootstrap(np.median, x) == bootstrap(np.median, x)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)]
)
def test_correlations_are_those_of_scipy(ours, theirs):
    x, y = pairs()
    interval = bootstrap(ours, x, y)
    assert interval.value == pytest.approx(theirs(x, y).statistic)
    assert interval.low < interval.value < interval.high
    assert bootstrap(ours, x, 2 * x + 1).low == pytest.approx(1)
    x, y = np.array([1, 2, 2, 3, 5, 5]), np.array([2, 1, 1, 7, 7, 7])  # with ties
    assert ours(x, y) == pytest.approx(theirs(x, y).statistic)


def halves(images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The means of both halves for all ways to halve each group: (groups, 4, k) -> (groups, k)."""
    ways = [list(way) for way in combinations(range(4), 2)]
    for chosen in product(ways, repeat=len(images)):
        others = [[n for n in range(4) if n not in way] for way in chosen]
        yield tuple(
            np.array([group[way].mean(0) for group, way in zip(images, side, strict=True)])
            for side in (chosen, others)
        )


def test_the_noise_ceiling_and_the_correlation_without_noise_are_those_of_all_split_halves():
    first, second = (
        [[1, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]],
        [[1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 1, 1]],
    )
    images = np.stack([first, second], 2).astype(float)  # 3 groups of 4 images
    with_itself, with_the_other = np.zeros(2), 0.0
    for one, other in halves(images):
        table = np.cov(one.T, other.T)[:2, 2:]
        with_itself += table.diagonal() / 6**3
        with_the_other += (table[0, 1] + table[1, 0]) / 2 / 6**3
    x, y = images.mean(1).T
    noise_x, noise_y = images.var(1, ddof=1).T / 4
    deviations = images - images.mean(1, keepdims=True)
    shared = deviations.prod(2).sum(1) / 3 / 4
    found = noiseless_pearson(x, y, noise_x, noise_y, shared)
    assert found == pytest.approx(with_the_other / math.sqrt(with_itself.prod()))
    # Spearman and Brown's formula, on the ratio of mean variances: half as many images, then all.
    of_halves = with_itself / (with_itself + 2 * np.array([noise_x.mean(), noise_y.mean()]))
    of_all = 2 * of_halves / (1 + of_halves)
    assert noise_ceiling(x, y, noise_x, noise_y) == pytest.approx(math.sqrt(of_all.prod()))


def test_the_noise_ceiling_is_what_random_halves_give():
    rng = np.random.default_rng(0)
    images = rng.random((300, 20)) < rng.uniform(0.2, 0.9, (300, 1))
    found = []
    for _ in range(200):
        shuffled = rng.permuted(images, axis=1)
        r = pearson(shuffled[:, :10].mean(1), shuffled[:, 10:].mean(1))
        found.append(2 * r / (1 + r))
    x, noise = images.mean(1), images.var(1, ddof=1) / 20
    assert noise_ceiling(x, x, noise, noise) == pytest.approx(np.mean(found), abs=5e-3)


def test_without_a_signal_the_ceiling_is_0_and_nothing_is_left_without_noise():
    x, noise = np.array([0.4, 0.5, 0.6]), np.full(3, 0.01)
    assert noise_ceiling(x, x, noise, 0 * noise) == 0
    assert math.isnan(noiseless_pearson(x, x, noise, 0 * noise, 0 * noise))
    constant = np.full(3, 0.5)
    assert math.isnan(noise_ceiling(x, constant, 0 * noise, noise))
    assert math.isnan(noiseless_pearson(x, constant, 0 * noise, noise, 0 * noise))
    assert noise_ceiling(x, x, 0 * noise, 0 * noise) == 1
    assert noiseless_pearson(x, -x, 0 * noise, 0 * noise, 0 * noise) == pytest.approx(-1)


def test_kappa_is_that_of_a_textbook_and_zero_by_chance():
    # Two raters of 50 grant proposals: 20 both yes, 15 both no, 5 and 10 only one yes.
    a = np.repeat([True, True, False, False], [20, 5, 10, 15])
    b = np.repeat([True, False, True, False], [20, 5, 10, 15])
    assert kappa(a, b) == kappa(2 * a, 2 * b) == pytest.approx(0.4)
    assert kappa(a, a) == 1
    rng = np.random.default_rng(0)
    interval = bootstrap(kappa, rng.random(4000) < 0.8, rng.random(4000) < 0.6)
    assert interval.low < 0 < interval.high
    assert abs(interval.value) < 0.05


def test_an_undefined_statistic_is_a_dash():
    constant = np.ones(10)
    for interval in (
        bootstrap(pearson, constant, np.arange(10)),
        bootstrap(kappa, constant.astype(int), constant.astype(int)),
    ):
        assert math.isnan(interval.value)
        assert f"{interval:.2f}" == "–"


def test_each_number_of_an_interval_is_formatted():
    assert f"{Interval(0.6667, 0.661, 0.672):.1%}" == "66.7% (66.1% to 67.2%)"


def test_too_few_rows_are_one_clear_error():
    with pytest.raises(ValueError, match="4 rows are too few for a statistic, which needs 5"):
        mean(np.arange(4))


def test_holms_correction_is_the_smallest_level_at_which_the_step_down_procedure_rejects():
    p = [0.01, 0.04, 0.03, 0.005, 0.03]
    corrected = holm(p)
    assert corrected == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.09])
    for level in np.linspace(0.001, 0.2, 200):
        rejected, left = set(), sorted(range(len(p)), key=p.__getitem__)
        while left and p[left[0]] * len(left) <= level:
            rejected.add(left.pop(0))
        assert rejected == {number for number, value in enumerate(corrected) if value <= level}
