"""Statistics with intervals: means, correlations, and whether two networks make the same errors.

All intervals are 95% percentile bootstrap intervals (Efron 1979): rows, usually images, are drawn
with replacement, and the statistic of each draw is computed. The draws are seeded, so the same rows
give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST = 5
"""Least number of rows for a statistic."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval; all NaN if the estimate is not defined.

    The format spec applies to each number: `66.7% (66.1% to 67.2%)`.
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        if math.isnan(self.value):
            return "–"
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def bootstrap(
    statistic: Callable[..., float], *columns: np.ndarray, samples: int = 2000, seed: int = 0
) -> Interval:
    """Compute a statistic of rows and its interval.

    Args:
        statistic: Function of the columns; NaN means that it is not defined for them.
        columns: Arrays (n, ...); row i of each belongs together.
        samples: Number of draws.
        seed: Seed of the draws.

    Raises:
        ValueError: There are fewer than `FEWEST` rows.
    """
    rows = len(columns[0])
    if rows < FEWEST:
        raise ValueError(
            f"{rows} rows are too few for a statistic, which needs {FEWEST}: measure more images "
            "(or classes)"
        )
    rng = np.random.default_rng(seed)
    draws = np.empty(samples)
    for number in range(samples):
        chosen = rng.integers(0, rows, rows)
        draws[number] = statistic(*(column[chosen] for column in columns))
    draws = draws[~np.isnan(draws)]  # r is undefined if a draw repeats a single row
    value = float(statistic(*columns))
    if math.isnan(value) or not len(draws):
        return Interval(math.nan, math.nan, math.nan)
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def mean(values: np.ndarray) -> Interval:
    """The mean of numbers or booleans, (n,)."""
    return bootstrap(_mean, np.asarray(values, dtype=np.float64))


def pearson(x: np.ndarray, y: np.ndarray) -> Interval:
    """Pearson's r of pairs, (n,) each; not defined if one side is constant."""
    return bootstrap(_pearson, np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))


def spearman(x: np.ndarray, y: np.ndarray) -> Interval:
    """Spearman's r of pairs, (n,) each: Pearson's r of their ranks."""
    return bootstrap(_spearman, np.asarray(x), np.asarray(y))


def cohens_kappa(a: np.ndarray, b: np.ndarray) -> Interval:
    """Agreement of two raters beyond chance (Cohen 1960): 0 at chance, 1 if they always agree.

    Args:
        a: Classes that the first rater chooses, int (n,).
        b: Classes that the second rater chooses, int (n,).
    """
    return bootstrap(_kappa, np.asarray(a), np.asarray(b))


def error_consistency(a: np.ndarray, b: np.ndarray) -> Interval:
    """Whether two networks err on the same images, beyond what their accuracies imply.

    This is Cohen's kappa of right and wrong (Geirhos et al. 2020, section 2), so it is not defined
    if both are always right, or always wrong.

    Args:
        a: Whether the first network is right, bool (n,).
        b: Whether the second network is right, bool (n,).
    """
    return bootstrap(_kappa, np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64))


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The p-value of McNemar's exact two-sided test of whether two networks are equally accurate.

    Args:
        a: Whether the first network is right, bool (n,).
        b: Whether the second network is right, bool (n,).
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b).pvalue)


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else math.nan


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    return _pearson(stats.rankdata(x), stats.rankdata(y))


def _kappa(a: np.ndarray, b: np.ndarray) -> float:
    classes = int(max(a.max(), b.max())) + 1
    shares_a, shares_b = (np.bincount(rater, minlength=classes) / len(rater) for rater in (a, b))
    chance = float(shares_a @ shares_b)
    if chance >= 1:  # both always choose the same class
        return math.nan
    return (float((a == b).mean()) - chance) / (1 - chance)
