"""Decides among the 16 categories of Geirhos et al. (2021), and compares observers who do.

An observer is a network or a person. The table of classes, the conditions that count and the order
of the means are those of their toolbox (https://github.com/bethgelab/model-vs-human).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from torch import nn

from bagnet.experiments.measuring.statistics import Interval
from bagnet.model.card import card_of
from bagnet.model.registry import classifier_of
from datamodules.pack.sources.humans import CATEGORIES, DATASETS

CLASSES = {
    "airplane": "404",
    "bear": "294-297",
    "bicycle": "444 671",
    "bird": "8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145",
    "boat": "472 554 625 814 914",
    "bottle": "440 720 737 898-899 901 907",
    "car": "436 511 817",
    "cat": "281-286",
    "chair": "423 559 765 857",
    "clock": "409 530 892",
    "dog": "152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268",
    "elephant": "385-386",
    "keyboard": "508 878",
    "knife": "499",
    "oven": "766",
    "truck": "555 569 656 675 717 734 864 867",
}
"""The classes of each category: those of ImageNet below its WordNet synset, but for a few that the
toolbox leaves out. A number is a place among ImageNet's WordNet ids in their order."""

IMAGENET = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
"""The sha256 of ImageNet's 1,000 WordNet ids in their order, a line each."""

CONDITIONS = {
    "colour": "(cr) bw",
    "contrast": "(c100) c50 c30 c15 c10 c05 (c03) (c01)",
    "high-pass": "(inf) 3 1.5 1 0.7 (0.55) (0.45) (0.4)",
    "low-pass": "(0) 1 3 5 7 10 (15) (40)",
    "phase-scrambling": "(0) 30 60 90 120 (150) (180)",
    "power-equalisation": "(0) pow",
    "false-colour": "(true) false",
    "rotation": "(0) 90 180 270",
    "eidolonI": "(1-10-10) 2-10-10 4-10-10 8-10-10 16-10-10 32-10-10 (64-10-10) (128-10-10)",
    "eidolonII": "(1-3-10) 2-3-10 4-3-10 8-3-10 16-3-10 (32-3-10) (64-3-10) (128-3-10)",
    "eidolonIII": "(1-0-10) 2-0-10 4-0-10 8-0-10 (16-0-10) (32-0-10) (64-0-10) (128-0-10)",
    "uniform-noise": "(0) 0.03 0.05 0.1 0.2 0.35 (0.6) (0.9)",
}
"""The conditions of the data sets that have several. Those in brackets do not count: the images are
as they were, or humans are right in less than 20% of them."""

DRAWS = 1000

HUMANS = "humans"
"""The label of all persons together."""


def classes_of(model: nn.Module) -> list[list[int]]:
    """A network's outputs for the classes of each category.

    Raises:
        ValueError: Its classes are not ImageNet's.
    """
    names, outputs = card_of(model).classes, classifier_of(model).out_features
    if names and set(names) != set(map(str, range(outputs))):
        order = sorted(range(len(names)), key=names.__getitem__)
        digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
        is_imagenet = digest == IMAGENET
    else:  # it does not know them
        order, is_imagenet = list(range(outputs)), outputs == 1000
    if not is_imagenet:
        raise ValueError(
            f"a network with {outputs:,} classes, and the 16 categories are made of ImageNet's "
            "1,000: give a network that was trained on these"
        )
    ends = {name: [each.split("-") for each in CLASSES[name].split()] for name in CATEGORIES}
    return [
        [order[n] for each in ends[name] for n in range(int(each[0]), int(each[-1]) + 1)]
        for name in CATEGORIES
    ]


@dataclass(frozen=True)
class Trials:
    """What observers decided about the images of one condition.

    Attributes:
        dataset: The data set.
        condition: The condition; empty if the data set has no others.
        labels: Categories of the images, int (n,).
        images: Names of the images.
        decided: Categories that the network and then each person chose, int (n, 1 + persons); -1 if
            the person did not answer in time.
    """

    dataset: str
    condition: str
    labels: np.ndarray
    images: Sequence[str]
    decided: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Which decisions are right, bool (n, 1 + persons)."""
        right: np.ndarray = self.decided == self.labels[:, None]
        return right

    @property
    def counts(self) -> bool:
        """Whether the condition counts in the means over the data sets."""
        return f"({self.condition})" not in CONDITIONS.get(self.dataset, "").split()


def trials_of(table: pa.Table) -> list[Trials]:
    """The trials of each condition, in the order of the data sets and their conditions."""
    found: dict[tuple[str, str], list[tuple[int, str, list[int]]]] = {}
    names = ("dataset", "condition", "label", "image", "predicted", "humans")
    columns = [table[name].to_pylist() for name in names]
    for dataset, condition, label, image, predicted, humans in zip(*columns, strict=True):
        key = dataset, condition if dataset in CONDITIONS else ""
        found.setdefault(key, []).append((label, image, [predicted, *humans]))
    places = {
        (name, text.strip("()")): place
        for name in DATASETS
        for place, text in enumerate(CONDITIONS.get(name, "").split())
    }
    trials = []
    for key in sorted(found, key=lambda key: (DATASETS.index(key[0]), places.get(key, 99), key)):
        labels, images, decided = zip(*found[key], strict=True)
        trials.append(Trials(*key, np.array(labels), images, np.array(decided)))
    return trials


def observers_of(label: str) -> slice:
    """The columns of `Trials.decided` of an observer: a network's is the first."""
    return slice(1, None) if label == HUMANS else slice(0, 1)


def figures(
    conditions: Sequence[Trials],
    observers: slice,
    pairs: Sequence[tuple[int, int]],
    rng: np.random.Generator,
) -> np.ndarray:
    """Compute the accuracy of observers in a data set, and compare pairs of observers.

    Args:
        conditions: The conditions of the data set that count.
        observers: Columns of `Trials.decided`, all of whose decisions the accuracy is of.
        pairs: Pairs of such columns.
        rng: Draws the images of each condition with replacement.

    Returns:
        Accuracy; then the means over the conditions, and then over the pairs, of the squared
        difference of accuracies, of the observed consistency and of the error consistency; for the
        images as they are and for each draw. Shape (4, 1 + DRAWS); NaN if there is no pair.
    """
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    hits, total = np.zeros(1 + DRAWS), 0
    compared = []
    for trials in conditions:
        right = trials.right.astype(np.float64)
        images = len(right)
        drawn = rng.integers(0, images, (DRAWS, images)) + images * np.arange(DRAWS)[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        weights = np.concatenate([np.ones((1, images)), times])
        accuracy = weights @ right / images
        hits += images * accuracy[:, observers].mean(1)
        total += images
        a, b = accuracy[:, first], accuracy[:, second]
        observed = weights @ (right[:, first] == right[:, second]) / images
        expected = a * b + (1 - a) * (1 - b)
        differ = observed < 1  # or else expected may be 1, too
        error = np.ones_like(observed)
        np.divide(observed - expected, 1 - expected, out=error, where=differ)
        compared.append(np.stack([(a - b) ** 2, observed, error]))
    means = np.mean(compared, axis=0)
    absent = np.full((3, 1 + DRAWS), np.nan)
    return np.stack([hits / total, *(means.mean(2) if len(pairs) else absent)])


def intervals(values: np.ndarray) -> list[Interval]:
    """The intervals of figures, (..., 1 + DRAWS): 1.96 standard errors on each side.

    Percentiles would be biased, since a squared difference is larger in most draws.
    """
    value, error = values[..., 0].tolist(), (1.96 * values[..., 1:].std(axis=-1)).tolist()
    return [Interval(v, v - e, v + e) for v, e in zip(value, error, strict=True)]


def cues(trials: Sequence[Trials], observers: slice) -> np.ndarray:
    """Count the decisions for the shape's category and for the texture's.

    Args:
        trials: All trials. Only those of cue-conflict are looked at, and of these only images with
            different cues; `bird3-bird2.png` has the shape of a bird and the texture of one.
        observers: Columns of `Trials.decided`.

    Returns:
        For each category of shapes: decisions for the shape, and for the texture; int (16, 2).
    """
    counted = np.zeros((len(CATEGORIES), 2), dtype=np.int64)
    for each in trials:
        if each.dataset != "cue-conflict":
            continue
        names = [re.sub(r"\d", "", name.split(".")[0].split("-")[-1]) for name in each.images]
        textures = np.array([CATEGORIES.index(name) for name in names])
        for cue, wanted in enumerate((each.labels, textures)):
            hits = (each.decided[:, observers] == wanted[:, None]).sum(1)
            hits[textures == each.labels] = 0
            np.add.at(counted[:, cue], each.labels, hits)
    return counted
