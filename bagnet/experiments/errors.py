"""Compares the errors of networks: which classes are hard for both, and which images.

The paper compares the accuracies of two networks class by class in a scatter plot: BagNets and
standard networks find the same classes hard.

It does not say which accuracy that is; here it is top-5 (--top 5), which its other figures use;
with few classes, use --top 1. Pearson's and Spearman's r, and their bootstrap intervals, are over
classes. Image by image, we add three statistics of the predicted class: Cohen's kappa of the
predictions; the error consistency of Geirhos et al. (2020), which is the agreement in right and
wrong beyond what the accuracies imply; and McNemar's exact test of equal accuracy.

Reads OUT/accuracy, and measures what is missing there. Writes to OUT/errors: table (pairs), classes
(those whose accuracies differ most, for each pair) and figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from scipy import stats

from bagnet.experiments import accuracy
from bagnet.experiments.measuring.measure import measure
from bagnet.experiments.measuring.parts import record_of
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import bootstrap, kappa, pearson, spearman
from bagnet.experiments.options import ErrorsOptions

NAME = "errors"

COLUMNS = {
    "first": ("network", ""),
    "second": ("other network", ""),
    "images": ("images", ","),
    "classes": ("classes", ","),
    "pearson": ("Pearson's r of classes", ".2f"),
    "spearman": ("Spearman's r of classes", ".2f"),
    "kappa": ("Cohen's kappa", ".2f"),
    "consistency": ("error consistency", ".2f"),
    "only_first": ("right: first only", ","),
    "only_second": ("right: other only", ","),
    "mcnemar": ("McNemar's p", ".2g"),
}

CLASS_COLUMNS = {
    "first": ("network", ""),
    "second": ("other network", ""),
    "class": ("class", ""),
    "images": ("images", ","),
    "first_accuracy": ("accuracy", ".1%"),
    "second_accuracy": ("other's accuracy", ".1%"),
    "difference": ("difference", "+.1%"),
}


@dataclass(frozen=True)
class Pair:
    """Two networks on the same images and classes.

    Attributes:
        names: Labels of the networks.
        classes: Classes that have images, int (C,).
        images: Number of images of each class, int (C,).
        accuracies: Accuracies of both networks for each class, (2, C), from 0 to 1.
        predicted: Predicted classes, int (2, n).
        right: Whether the predicted classes are right, bool (2, n).
    """

    names: tuple[str, str]
    classes: np.ndarray
    images: np.ndarray
    accuracies: np.ndarray
    predicted: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, names: tuple[str, str], tables: Mapping[str, pa.Table], top: int) -> Pair:
        """Make a pair from tables of `accuracy`; images that only one table has are left out."""
        first, second = (tables[name] for name in names)
        both = first.join(second, "sample_id", join_type="inner", right_suffix="_2")
        both = both.sort_by("sample_id")
        ranks = np.stack([both["rank"], both["rank_2"]])
        predicted = np.stack([both["predicted"], both["predicted_2"]])
        classes, index, images = np.unique(both["label"], return_inverse=True, return_counts=True)
        hits = np.stack([np.bincount(index, weights=each) for each in ranks < top])
        return cls(names, classes, images, hits / images, predicted, ranks < 1)


def run(options: ErrorsOptions) -> None:
    """Measure, print the tables, and write the files.

    Raises:
        ValueError: There are fewer than two networks, or too few images or classes.
    """
    tables = measure(accuracy.NAME, accuracy.Predictions(), options)
    if len(tables) < 2:
        raise ValueError(
            f"{options.out / accuracy.NAME} has only the results of {', '.join(tables)}, and "
            "errors are compared between networks: give two (--models)"
        )
    pairs = [Pair.of(names, tables, options.top) for names in combinations(tables, 2)]
    rows = [_row(pair) for pair in pairs]
    names = record_of(next(iter(tables.values())).schema)["class_names"]
    differing = [row for pair in pairs for row in most_different(pair, names, options.differing)]
    written = {"table": (rows, COLUMNS), "classes": (differing, CLASS_COLUMNS)}
    correlations = [row["pearson"].value for row in rows]
    write_results(options, NAME, written, {"figure": draw(pairs, correlations, options.top)})


def _row(pair: Pair) -> dict[str, Any]:
    first, second = pair.right
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return {
        "first": pair.names[0],
        "second": pair.names[1],
        "images": len(first),
        "classes": len(pair.classes),
        "pearson": bootstrap(pearson, *pair.accuracies),
        "spearman": bootstrap(spearman, *pair.accuracies),
        "kappa": bootstrap(kappa, *pair.predicted),
        "consistency": bootstrap(kappa, first, second),
        "only_first": only_first,
        "only_second": only_second,
        # Without a differing image, as with one, there is nothing against equal accuracy: p = 1.
        "mcnemar": stats.binomtest(only_first, max(1, only_first + only_second)).pvalue,
    }


def most_different(pair: Pair, names: list[str], count: int) -> list[dict[str, Any]]:
    """The classes whose accuracies differ most, the largest difference first."""
    difference = pair.accuracies[0] - pair.accuracies[1]
    return [
        {
            "first": pair.names[0],
            "second": pair.names[1],
            "class": names[pair.classes[i]],
            "images": int(pair.images[i]),
            "first_accuracy": float(pair.accuracies[0, i]),
            "second_accuracy": float(pair.accuracies[1, i]),
            "difference": float(difference[i]),
        }
        for i in np.argsort(-np.abs(difference), kind="stable")[:count]
    ]


def draw(pairs: list[Pair], correlations: list[float], top: int) -> Figure:
    """Draw a scatter plot for each pair, with Pearson's r: a dot is a class."""
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(2.8 * columns + 0.2, 2.8 * rows + 0.2), layout="constrained")
    for number, (pair, r) in enumerate(zip(pairs, correlations, strict=True), 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.plot((0, 100), (0, 100), color="0.8", linewidth=1, zorder=1)
        # Many dots are small and translucent; clipping would halve those at the edges.
        size = np.clip(2000 / len(pair.classes), 4, 40)
        x, y = 100 * pair.accuracies
        axes.scatter(x, y, s=size, alpha=0.5, color="#5e3c99", linewidths=0, clip_on=False)
        axes.set_title("r not defined" if np.isnan(r) else f"r = {r:.2f}", fontsize=9)
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set_xlabel(f"{pair.names[0]}, top-{top} %")
        axes.set_ylabel(f"{pair.names[1]}, top-{top} %")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
