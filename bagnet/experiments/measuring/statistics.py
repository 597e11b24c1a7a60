"""Shares, means, correlations and agreement, with 95% intervals.

Those of shares are Wilson's (1927), which hold for any number of images, also where none or all are
right. All others are percentile bootstrap intervals (Efron 1979): rows, usually images, are drawn
with replacement, and the statistic of each draw is computed. The draws are seeded, so the same rows
give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST = 5
"""Least number of rows that a bootstrap can draw from."""


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
    statistic: Callable[..., float], *columns: np.ndarray, samples: int = 2000
) -> Interval:
    """Compute a statistic of rows and its interval.

    Args:
        statistic: Function of the columns; NaN means that it is not defined for them.
        columns: Arrays (n, ...); row i of each belongs together.
        samples: Number of draws.

    Raises:
        ValueError: There are fewer than `FEWEST` rows.
    """
    draws = np.array(
        [
            statistic(*(column[chosen] for column in columns))
            for chosen in _draws(len(columns[0]), samples)
        ]
    )
    draws = draws[~np.isnan(draws)]  # r is undefined if a draw repeats a single row
    value = float(statistic(*columns))
    if math.isnan(value) or not len(draws):
        return Interval(math.nan, math.nan, math.nan)
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def _draws(rows: int, samples: int) -> Iterator[np.ndarray]:
    """Numbers of rows, drawn with replacement: the same for the same number of rows."""
    if rows < FEWEST:
        raise ValueError(
            f"{rows} rows are too few for a statistic, which needs {FEWEST}: measure more images "
            "(or classes)"
        )
    rng = np.random.default_rng(0)
    for _ in range(samples):
        yield rng.integers(0, rows, rows)


def share(hits: np.ndarray) -> Interval:
    """The share of rows that are true, bool (n,) of any number, with Wilson's interval."""
    return share_of(int(np.count_nonzero(hits)), len(hits))


def share_of(hits: int, rows: int) -> Interval:
    """The same, from the number of rows that are true and that of all, which is at least 1."""
    result = stats.binomtest(hits, rows)
    interval = result.proportion_ci(method="wilson")
    return Interval(float(result.statistic), float(interval.low), float(interval.high))


def mean(values: np.ndarray) -> Interval:
    """The mean of numbers, (n,); `share` is for booleans."""
    return bootstrap(np.mean, np.asarray(values, dtype=np.float64))


def mean_band(curves: np.ndarray, samples: int = 2000) -> np.ndarray:
    """The interval of the mean at each point of curves: (n, points) -> low and high, (2, points).

    At a point, it is that of `mean`.
    """
    rows = len(curves)
    means = [
        np.bincount(chosen, minlength=rows) / rows @ curves for chosen in _draws(rows, samples)
    ]
    band: np.ndarray = np.percentile(means, (2.5, 97.5), axis=0)
    return band


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r of pairs, float (n,) each; NaN if one side is constant."""
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else math.nan


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's r of pairs, (n,) each: Pearson's r of their ranks."""
    return pearson(stats.rankdata(x), stats.rankdata(y))


def noise_ceiling(x: np.ndarray, y: np.ndarray, noise_x: np.ndarray, noise_y: np.ndarray) -> float:
    """Pearson's r that noise leaves of a perfect correlation (Spearman 1904); NaN for a constant.

    It is the root of the product of both reliabilities. The reliability of x is the share of its
    variance that is not noise, as split halves estimate it with the formula of Spearman and Brown;
    this is the mean over all ways to split, without a split.

    Args:
        x: Means of groups, (n,).
        y: Means of another quantity for the same groups, (n,).
        noise_x: The sampling variance of each entry of x, (n,).
        noise_y: The same of y.
    """
    signal = max(0.0, _covariance(x, x, noise_x)) * max(0.0, _covariance(y, y, noise_y))
    total = float(x.var(ddof=1) * y.var(ddof=1))
    return math.sqrt(signal / total) if total else math.nan


def noiseless_pearson(
    x: np.ndarray, y: np.ndarray, noise_x: np.ndarray, noise_y: np.ndarray, shared: np.ndarray
) -> float:
    """Pearson's r that x and y would have without noise; NaN if all variance may be noise.

    It is the correlation divided by the ceiling (Spearman 1904), but without the part that x and y
    owe to the same samples. This is the mean of what halves would give: x of one half against y of
    the other, relative to x against x and y against y. Chance may take it above 1.

    Args:
        x: As for `noise_ceiling`.
        y: As for `noise_ceiling`.
        noise_x: As for `noise_ceiling`.
        noise_y: As for `noise_ceiling`.
        shared: The sampling covariance of each entry of x with that of y, (n,).
    """
    own_x, own_y = _covariance(x, x, noise_x), _covariance(y, y, noise_y)
    if min(own_x, own_y) <= 0:
        return math.nan
    return _covariance(x, y, shared) / math.sqrt(own_x * own_y)


def _covariance(x: np.ndarray, y: np.ndarray, noise: np.ndarray) -> float:
    """The covariance of pairs without what their noise adds to it."""
    return float((x - x.mean()) @ (y - y.mean())) / (len(x) - 1) - float(noise.mean())


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979): 0.05 then bounds the risk of any false one."""
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * np.asarray(p)[order]))
    return list(map(float, corrected))


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Agreement of two raters beyond chance (Cohen 1960): 0 at chance, 1 if they always agree.

    If the raters are networks, and the ratings whether they are right, this is the error
    consistency of Geirhos et al. (2020, section 2). NaN if both always choose the same class.

    Args:
        a: Classes that the first rater chooses, int or bool (n,).
        b: Classes that the second rater chooses, int or bool (n,).
    """
    classes = int(max(a.max(), b.max())) + 1
    shares_a, shares_b = (np.bincount(rater, minlength=classes) / len(rater) for rater in (a, b))
    chance = float(shares_a @ shares_b)
    return (float((a == b).mean()) - chance) / (1 - chance) if chance < 1 else math.nan
