"""Compares the errors of networks: which classes are hard for both, and which images.

The paper compares the accuracies of two networks class by class in a scatter plot: BagNets and
standard networks find the same classes hard.

The accuracy is top-5 (--top 5), as in the paper; with few classes, use --top 1. Pearson's and
Spearman's r, and their bootstrap intervals, are over classes.

The accuracy of a class is uncertain if it has few images. This noise makes the correlation lower:
even networks that find exactly the same classes hard would only reach the noise ceiling, the root
of the product of both networks' reliabilities (Spearman 1904). It also makes the correlation
higher, because both networks see the same images: if those of a class happen to be hard ones, both
accuracies fall. So r without noise is not r divided by the ceiling. It is the mean, over all ways
to split each class into halves, of what the first network does on one half against the second on
the other, relative to each network against itself. Classes with a single image tell nothing about
noise and are left out of both figures. There is no r without noise where the ceiling may be 0.

Image by image, we add three statistics of the predicted class: Cohen's kappa of the predictions;
the error consistency of Geirhos et al. (2020), which is the agreement in right and wrong beyond
what the accuracies imply; and McNemar's exact test of equal accuracy, with Holm's correction for
the number of pairs.

Reads OUT/accuracy, and measures what is missing there. Writes to OUT/errors: table (pairs), classes
(those whose accuracies differ most, for each pair) and figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from bagnet.experiments.decisions import accuracy
from bagnet.experiments.decisions.options import ErrorsOptions
from bagnet.experiments.decisions.pairs import Pair
from bagnet.experiments.measuring.figures import WIDTH, Rows
from bagnet.experiments.measuring.measure import measure
from bagnet.experiments.measuring.models import parse_models
from bagnet.experiments.measuring.parts import record_of, result_files
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import (
    FEWEST,
    bootstrap,
    holm,
    kappa,
    noise_ceiling,
    noiseless_pearson,
    pearson,
    share_of,
    spearman,
)
from datamodules.common.progress import progress

NAME = "errors"

COLUMNS = {
    "first": ("network", ""),
    "second": ("other network", ""),
    "images": ("images", ","),
    "classes": ("classes", ","),
    "pearson": ("Pearson's r of classes", ".2f"),
    "ceiling": ("noise ceiling of r", ".2f"),
    "noiseless": ("r without noise", ".2f"),
    "spearman": ("Spearman's r of classes", ".2f"),
    "kappa": ("Cohen's kappa", ".2f"),
    "consistency": ("error consistency", ".2f"),
    "only_first": ("right: first only", ","),
    "only_second": ("right: other only", ","),
    "mcnemar": ("McNemar's p", ".2g"),
    "mcnemar_holm": ("p, Holm", ".2g"),
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


def run(options: ErrorsOptions) -> None:
    """Measure, print the tables, and write the files.

    Raises:
        ValueError: There are fewer than two networks, or too few images or classes.
    """
    folder = options.out / accuracy.NAME
    labels = {model.label for model in parse_models(options.models)}
    labels |= {file.stem for file in result_files(folder)}
    if len(labels) == 1:
        raise ValueError(
            f"there is only {labels.pop()} in --models and {folder}, and errors are compared "
            "between networks: give two (--models)"
        )
    tables = measure(accuracy.NAME, accuracy.Predictions.of(options), options, fewest=FEWEST)
    pairs = [Pair.of(names, tables, options.top) for names in combinations(tables, 2)]
    rows = []
    with progress(Console(stderr=True), "errors", len(pairs), "pairs") as update:
        for pair in pairs:
            rows.append(_row(pair))
            update(len(rows))
    for row, corrected in zip(rows, holm([row["mcnemar"] for row in rows]), strict=True):
        row["mcnemar_holm"] = corrected
    names = record_of(next(iter(tables.values())).schema)["class_names"]
    differing = [row for pair in pairs for row in most_different(pair, names, options.differing)]
    written = {"table": (rows, COLUMNS), "classes": (differing, CLASS_COLUMNS)}
    figure = draw(pairs, rows, options.top)
    write_results(options, NAME, written, {"figure": figure})


def _row(pair: Pair) -> dict[str, Any]:
    first, second = pair.right
    enough = len(pair.classes) >= FEWEST
    noisy = np.concatenate([pair.accuracies, pair.noise])[:, pair.images > 1]
    ceiling = bootstrap(noise_ceiling, *noisy[:4]) if noisy.shape[1] >= FEWEST else None
    is_above_0 = ceiling is not None and ceiling.low > 0
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return {
        "first": pair.names[0],
        "second": pair.names[1],
        "images": len(first),
        "classes": len(pair.classes),
        "pearson": bootstrap(pearson, *pair.accuracies) if enough else None,
        "ceiling": ceiling,
        "noiseless": bootstrap(noiseless_pearson, *noisy) if is_above_0 else None,
        "spearman": bootstrap(spearman, *pair.accuracies) if enough else None,
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
            "first_accuracy": share_of(int(pair.hits[0, i]), int(pair.images[i])),
            "second_accuracy": share_of(int(pair.hits[1, i]), int(pair.images[i])),
            "difference": float(difference[i]),
        }
        for i in np.argsort(-np.abs(difference), kind="stable")[:count]
    ]


def draw(pairs: list[Pair], rows: Rows, top: int) -> Figure:
    """Draw a scatter plot for each pair, with the correlations of its row: a dot is a class.

    A network has a column, a row, or both.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair.names))
    count = len(names) - 1
    side = min(2.9, max(1.4, WIDTH / count))
    figure = Figure(figsize=(side * count + 0.6, side * count + 0.5), layout="constrained")
    grid = figure.subplots(count, count, sharex=True, sharey=True, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    worst = min(pair.accuracies.min() for pair in pairs)
    lowest = min(80, max(0, 10 * math.floor(10 * worst - 0.3)))
    step = 20 if lowest < 60 else 10
    ticks = np.arange(step * math.ceil(lowest / step), 101, step)
    for pair, row in zip(pairs, rows, strict=True):
        column, line = names.index(pair.names[0]), names.index(pair.names[1]) - 1
        axes = grid[line, column]
        axes.set_axis_on()
        axes.plot((0, 100), (0, 100), color="0.8", linewidth=1, zorder=1)
        # Classes of few images often have the same accuracies: their dot is larger.
        places, many = np.unique(100 * pair.accuracies, axis=1, return_counts=True)
        size = many * np.clip(2000 / len(pair.classes), 5, 30)
        style = {"alpha": 0.6, "color": "0.3", "edgecolors": "white", "linewidths": 0.6}
        axes.scatter(*places, s=size, clip_on=False, zorder=2, **style)
        axes.set_title(_correlations(row), fontsize=8)
        axes.set(xlim=(lowest, 100), ylim=(lowest, 100), aspect="equal", xticks=ticks, yticks=ticks)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if line == count - 1:
            axes.set_xlabel(f"{pair.names[0]}, %")
        if column == 0:
            axes.set_ylabel(f"{pair.names[1]}, %")
    classes = max(len(pair.classes) for pair in pairs)
    figure.supxlabel(f"top-{top} accuracy of each of {classes} classes", fontsize=9)
    return figure


def _correlations(row: Mapping[str, Any]) -> str:
    """What the title of a plot says."""
    r, noiseless = row["pearson"], row["noiseless"]
    if not r:
        return f"{row['classes']} classes, too few for r"
    if math.isnan(r.value):
        return "r not defined"
    return f"r = {r:.2f}" + (f"\nwithout noise {noiseless.value:.2f}" if noiseless else "")
