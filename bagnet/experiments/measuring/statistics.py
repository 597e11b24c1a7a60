"""What the experiments say of their numbers: intervals, correlations, and whether two networks err alike.

All intervals are 95 % percentile bootstrap intervals (Efron 1979): the rows, usually images, are drawn again with
replacement, and the statistic of each draw is taken. The draws come from a seed, so the same rows give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST = 5
"""Rows that a statistic needs at least."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; NaN where it is not defined.

    Formatted, it is ``66.7% (66.1% to 67.2%)``, each number by the format spec.
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
    """The interval of a statistic of rows.

    Args:
        statistic: Of the columns, each (n, ...); NaN where it is not defined.
        columns: (n, ...) each; row i of all of them belongs together.
        samples: How often the rows are drawn.
        seed: Of the draws.

    Raises:
        ValueError: Fewer than ``FEWEST`` rows.
    """
    rows = len(columns[0])
    if rows < FEWEST:
        raise ValueError(
            f"{rows} rows are too few for a statistic, which needs {FEWEST}: measure more images (or classes)"
        )
    rng = np.random.default_rng(seed)
    draws = np.empty(samples)
    for number in range(samples):
        chosen = rng.integers(0, rows, rows)
        draws[number] = statistic(*(column[chosen] for column in columns))
    draws = draws[~np.isnan(draws)]  # such as r, where a draw has one row many times
    value = float(statistic(*columns))
    if math.isnan(value) or not len(draws):
        return Interval(math.nan, math.nan, math.nan)
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def mean(values: np.ndarray) -> Interval:
    """The mean of numbers or of yes and no, (n,)."""
    return bootstrap(_mean, np.asarray(values, dtype=np.float64))


def pearson(x: np.ndarray, y: np.ndarray) -> Interval:
    """Pearson's r of pairs, (n,) each; not defined where one side is constant."""
    return bootstrap(_pearson, np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))


def spearman(x: np.ndarray, y: np.ndarray) -> Interval:
    """Spearman's r of pairs, (n,) each: Pearson's r of their ranks."""
    return bootstrap(_spearman, np.asarray(x), np.asarray(y))


def cohens_kappa(a: np.ndarray, b: np.ndarray) -> Interval:
    """How far two raters agree beyond chance (Cohen 1960): 0 chance, 1 always.

    Args:
        a: The class that the first gives each image, int (n,).
        b: That of the second.
    """
    return bootstrap(_kappa, np.asarray(a), np.asarray(b))


def error_consistency(a: np.ndarray, b: np.ndarray) -> Interval:
    """Whether two networks err on the same images, beyond what their accuracies imply (Geirhos et al. 2020, section 2).

    It is Cohen's kappa of right and wrong, so not defined where both are always right, or always wrong.

    Args:
        a: Whether the first is right, bool (n,).
        b: Whether the second is.
    """
    return bootstrap(_kappa, np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64))


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The probability of so unequal numbers of images that only one of them gets right, were both equally good.

    McNemar's exact two-sided test.

    Args:
        a: Whether the first is right, bool (n,).
        b: Whether the second is.
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
    if chance >= 1:  # both say the same all the time
        return math.nan
    return (float((a == b).mean()) - chance) / (1 - chance)
