"""Compares networks with humans who saw the same distorted images: the benchmark model-vs-human.

Geirhos et al. (NeurIPS 2021, https://arxiv.org/abs/2106.07411) showed images of 17 data sets to
humans, who chose one of 16 categories. `pack humans` packs the images and the answers that their
toolbox has (https://github.com/bethgelab/model-vs-human); give --data.root its output. Networks
need ImageNet's 1,000 classes.

The probability of a category is the mean probability of its classes (1 to 109 of ImageNet's; a
table that the toolbox fixes), and the most probable one is the decision. The images have 224 px and
are not resized or cropped: the default of --data.resize_size is --data.image_size here.

All 17 data sets count. Of the 12 with conditions, those do not that are no distortion (such as a
contrast of 100%), or of which humans recognise less than 20%. In each data set:

  OOD accuracy          right decisions among all images of the conditions that
                        count; in cue-conflict, the shape is right
  accuracy difference   squared difference of a network's and a human's accuracy
  observed consistency  images on which both are right or both wrong, of all
  error consistency     the same beyond what the accuracies imply (kappa); 1 if
                        they always agree

The last three are computed for each condition and human; a human who did not answer in time is
wrong. They are averaged over the conditions, then the humans, then the data sets. The row "humans"
compares each pair of humans, and its accuracy is that of all their answers.

Shape bias (Geirhos et al., ICLR 2019) is the share of decisions for the shape among those for the
shape or the texture, in the images of cue-conflict in which both differ; other decisions are left
out. That of humans is over all their decisions.

Published rows are those of the toolbox, which leaves TF32 on where a GPU has it: the last digit can
differ. Intervals are 95%, over the images, with the same humans: of accuracies in one data set and
of shape bias Wilson's; of all else 1.96 bootstrap standard errors on each side.

Writes to OUT/humans: table, datasets and categories (tables), figure (shape bias by category; the
lines are the means), accuracy (figure; conditions on grey do not count) and LABEL.parquet.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bagnet.experiments.decisions.human_figures import accuracy_figure, bias_figure
from bagnet.experiments.decisions.observers import (
    HUMANS,
    Trials,
    classes_of,
    cues,
    figures,
    intervals,
    observers_of,
    trials_of,
)
from bagnet.experiments.measuring.colours import network_colours
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.models import sizes_of
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import Interval, share, share_of
from bagnet.experiments.options import MeasureOptions
from bagnet.model.registry import normalize
from datamodules.common.texts import read_text
from datamodules.imagenet import ImageNetDataModule
from datamodules.pack.sources.humans import ANSWERS, CATEGORIES, DATASETS, Trial
from datamodules.shards.manifest import sha256_of

NAME = "humans"

PUBLISHED = {
    "bagnet33": (0.398, 0.156, 0.567, 0.137),
    "resnet50": (0.559, 0.087, 0.665, 0.208),
}
"""The toolbox's tables (latex-report/assets), with the figures in the order of `FIGURES`."""

FIGURES = {
    "accuracy": ("OOD accuracy", ".3f"),
    "difference": ("accuracy difference", ".3f"),
    "observed": ("observed consistency", ".3f"),
    "consistency": ("error consistency", ".3f"),
}
COLUMNS = {
    "model": ("observer", ""),
    "datasets": ("data sets", ""),
    "images": ("images", ","),
    **FIGURES,
    "bias": ("shape bias", ".3f"),
}
DATASET_COLUMNS = {
    "model": ("observer", ""),
    "dataset": ("data set", ""),
    "images": ("images that count", ","),
    "humans": ("humans", ""),
    **FIGURES,
}


@dataclass(frozen=True)
class Decisions:
    """What a network and the humans decide.

    Columns: dataset, condition, image; predicted, the category; humans, those that each of them
    chose, -1 for none.

    Attributes:
        answers: The sha256 of the humans' answers.
        trials: The trial of each image, by sample id, and the humans' answers.
    """

    answers: str
    trials: Mapping[int, tuple[Trial, list[int]]] = field(repr=False)

    @classmethod
    def of(cls, data: ImageNetDataModule) -> Decisions:
        """Read the answers that are beside the shards.

        Raises:
            ValueError: The data was not packed by `pack humans`, or the answers are damaged.
        """
        path, manifest = Path(data.root) / "val" / ANSWERS, data.val_manifest
        if not path.is_file():
            raise ValueError(
                f"{path} does not exist: pack the images with `python -m datamodules.pack humans`"
            )
        code = {name: place for place, name in enumerate(CATEGORIES)}
        rows = {}
        try:
            for key, *row in csv.reader(io.StringIO(read_text(path), newline="")):
                trial, said = Trial(*row[: len(Trial._fields)]), row[len(Trial._fields) :]
                rows[key] = trial, [code.get(word, -1) for word in said if word]
            samples = manifest.lookup(np.arange(manifest.num_samples))
            trials = {sample.id: rows[sample.key] for sample in samples}
        except (csv.Error, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not fit the images ({type(error).__name__}: {error}): run the same "
                "`pack humans` again, which writes it anew"
            ) from None
        return cls(sha256_of(path), trials)

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, Any]:
        with torch.no_grad():
            probabilities = model(normalize(images)).double().softmax(1)
        means = [probabilities[:, own].mean(1) for own in classes_of(model)]
        trials, answers = zip(*(self.trials[n] for n in sample_ids.tolist()), strict=True)
        return {
            "predicted": torch.stack(means, 1).argmax(1).cpu().numpy(),
            **{name: [getattr(t, name) for t in trials] for name in ("dataset", "condition")},
            "image": [trial.image for trial in trials],
            "humans": list(answers),
        }


def run(options: MeasureOptions) -> None:
    """Measure, print the tables, and write the files."""
    measurement = Decisions("", {})
    if options.models:
        size = options.data.resize_size or sizes_of(options).image_size
        options = replace(options, data=replace(options.data, resize_size=size))
        measurement = Decisions.of(open_data(options))
    tables = measure(NAME, measurement, options, check=classes_of, own_classes=True)
    if HUMANS in tables:
        raise ValueError(f"a network is called {HUMANS!r}, as the humans are: give another label")
    measured = {label: trials_of(table) for label, table in tables.items()}
    trials = next(iter(measured.values()))
    rows, each = [], []
    biases: dict[str, dict[str, Interval | None]] = {}
    for label, own in {**measured, HUMANS: trials}.items():
        total, of_datasets = _compare(label, own)
        counted = cues(own, observers_of(label))
        rows.append({**total, "bias": _bias(counted.sum(0))})
        each += of_datasets
        biases[label] = {name: _bias(own) for name, own in zip(CATEGORIES, counted, strict=True)}
    for label in (name for name in measured if name in PUBLISHED):
        published = dict(zip(FIGURES, PUBLISHED[label], strict=True))
        rows.append({"model": f"{label}, published", "datasets": len(DATASETS), **published})
    by_category = [
        {"category": name, **{label: own[name] for label, own in biases.items()}}
        for name in CATEGORIES
    ]
    titles = {label: (label, ".3f") for label in biases}
    written = {
        "table": (rows, COLUMNS),
        "datasets": (each, DATASET_COLUMNS),
        "categories": (by_category, {"category": ("shape bias by shape", ""), **titles}),
    }
    colours = {**network_colours(options.out, measured), HUMANS: "black"}
    drawn = {"accuracy": accuracy_figure({**measured, HUMANS: trials}, colours)}
    if all(any(own.values()) for own in biases.values()):
        drawn["figure"] = bias_figure(biases, rows, colours)
    write_results(options, NAME, written, {name: each for name, each in drawn.items() if each})


def _compare(label: str, trials: Sequence[Trials]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The rows of an observer, for all data sets and for each."""
    rng = np.random.default_rng(0)
    rows, values, total = [], [], 0
    for dataset, group in groupby(trials, attrgetter("dataset")):
        counting = [each for each in group if each.counts]
        if not counting:
            continue
        persons = range(1, counting[0].decided.shape[1])
        observers = observers_of(label)
        pairs = [*combinations(persons, 2)] if label == HUMANS else [(0, each) for each in persons]
        values.append(figures(counting, observers, pairs, rng))
        own = dict(zip(FIGURES, intervals(values[-1]), strict=True))
        right = np.concatenate([each.right[:, observers].ravel() for each in counting])
        images = sum(len(each.labels) for each in counting)
        rows.append({"model": label, "dataset": dataset, "images": images, "humans": len(persons)})
        rows[-1] |= {**own, "accuracy": share(right)}
        total += images
    if not rows:
        raise ValueError("none of the images is of a condition that counts: raise --limit")
    means = dict(zip(FIGURES, intervals(np.mean(values, axis=0)), strict=True))
    return {"model": label, "datasets": len(rows), "images": total, **means}, rows


def _bias(counted: np.ndarray) -> Interval | None:
    """The share of decisions for the shape among those for the shape or the texture."""
    shape, texture = counted.tolist()
    return share_of(shape, shape + texture) if shape + texture else None
