"""How much a decision depends on what a BagNet, or the network itself, finds important.

Brendel & Bethge (ICLR 2019, "spatial sensitivity") mask the most important cells of 8x8 pixels,
more and more of them, and follow the probability of the class that the unchanged image was given.
Importance comes from the heat map of a BagNet, from attributions of the tested network itself, or
from chance. In the paper, the BagNet's heat maps found what VGG-16, ResNet-50, ResNet-152 and
DenseNet-169 rely on better than these networks' own attributions, which use their gradients.

The class is the leading one of the tested network. The methods "evidence" and "pixel_evidence" are
those of the BagNets that --explainer names; `faithfulness/attribution.py` describes all methods.

What the paper leaves open, and what is done here:

* Masks: a cell becomes ImageNet's mean colour (--fill zero); "mean", "image" and "blur" are others.
* Importance of a cell: the mean of the attribution over its pixels, summed over the colours
  (--pooling mean); "absolute" takes the mean of its magnitude and "max" its largest value.
* Integrated Gradients: 32 steps (--integration_steps); each image's error, what the sum of the
  attributions lacks of the difference of the logits, is in the column integrated_gradients_gap.

Writes `table.*` (the mean probability at the largest number of cells), `figure.*` (the curves),
LABEL-maps.png (what each method finds important in some images), and LABEL.parquet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import cycle
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bagnet.evidence.maps import require_bagnet
from bagnet.experiments.faithfulness.attribution import attribute, by_cell, check_methods
from bagnet.experiments.faithfulness.curves import (
    EVIDENCE,
    LINES,
    curves_of,
    mean_curve,
    method_of,
)
from bagnet.experiments.faithfulness.maps import maps_figure
from bagnet.experiments.faithfulness.options import METHODS, Method, Pooling, SensitivityOptions
from bagnet.experiments.measuring.figures import Curve, panel_figure
from bagnet.experiments.measuring.masking import (
    probabilities,
    probability_curves,
    target_logits,
)
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.models import ModelFile, parse_models, sizes_of
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import FEWEST, mean
from bagnet.experiments.options import Fill
from bagnet.model.registry import normalize
from datamodules.shards.manifest import sha256_of

NAME = "sensitivity"
COUNTS = tuple(range(1, 101))
SHOWN = 3  # images in LABEL-maps.png
TITLES = {
    "model": ("model", ""),
    "method": ("importance", ""),
    "images": ("images", ",d"),
    "before": ("p before", ".3f"),
    "cells": ("masked cells", "d"),
    "masked": ("p masked", ".3f"),
}


def run(options: SensitivityOptions) -> None:
    """Measure what is missing, and draw everything that exists."""
    methods = tuple(options.methods) or METHODS
    counts = _counts(options)
    explainers: tuple[ModelFile, ...] = ()
    classes: tuple[str, ...] = ()
    if options.models and EVIDENCE & set(methods):
        models = {model.label: model for model in parse_models(options.models)}
        unknown = [label for label in options.explainer if label not in models]
        if unknown or not options.explainer:
            raise ValueError(
                f"--explainer {' '.join(unknown)}: evidence and pixel_evidence are heat maps of "
                f"BagNets; give labels of --models ({', '.join(models)}), or leave them out of "
                "--methods"
            )
        explainers = tuple(models[label] for label in options.explainer)
        classes = open_data(options).classes
        for explainer in explainers:
            require_bagnet(explainer.load(torch.device("cpu"), classes))
    masking = options.cell, options.fill, options.pooling, options.seed, options.integration_steps
    digests = tuple(sha256_of(explainer.path) for explainer in explainers)
    measurement = Sensitivity(methods, counts, *masking, explainers, digests, classes)
    own = [method for method in methods if method not in EVIDENCE]
    check = partial(check_methods, own)
    tables = measure(NAME, measurement, options, check=check, fewest=FEWEST)
    written = {"table": (table_rows(tables), TITLES)}
    figures = {"figure": curves_figure(tables)}
    if options.models:  # so the options are those of the results
        for model in parse_models(options.models):
            ids = tables[model.label]["sample_id"].to_numpy()[:SHOWN]
            figures[f"{model.label}-maps"] = maps_figure(measurement.scores, model, options, ids)
    write_results(options, NAME, written, figures)


def _counts(options: SensitivityOptions) -> tuple[int, ...]:
    """The numbers of cells to mask; by default, those of `COUNTS` that the image has."""
    size = sizes_of(options).image_size
    cells = (-(-size // options.cell)) ** 2
    if max(options.counts, default=0) > cells:
        raise ValueError(
            f"--counts {max(options.counts)}: an image of {size}x{size} px has {cells} cells of "
            f"{options.cell} px to mask; give numbers up to that, or another --cell"
        )
    return tuple(sorted(options.counts)) or tuple(n for n in COUNTS if n <= cells)


@dataclass(frozen=True)
class Sensitivity:
    """The probability of the leading class as more and more cells are masked, for each image.

    Columns: target, the leading class; probability, that of the unchanged image; counts, the
    numbers of masked cells; for each method, the probabilities for these counts ("evidence of
    LABEL" for that of an explainer); and integrated_gradients_gap, in logits.
    """

    methods: tuple[Method, ...]
    counts: tuple[int, ...]
    cell: int
    fill: Fill
    pooling: Pooling
    seed: int
    integration_steps: int = 32
    explainers: tuple[ModelFile, ...] = field(default=(), repr=False)
    explainer_weights: tuple[str, ...] = ()  # digests, by which the record names the explainers
    classes: tuple[str, ...] = field(default=(), repr=False)  # the data's, in the targets' order

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        x = normalize(images)
        with torch.no_grad():
            logits = model(x)
        targets = logits.argmax(1)
        columns = {
            "target": targets.cpu().numpy(),
            "probability": probabilities(logits, targets).cpu().numpy(),
            "counts": np.tile(self.counts, (len(x), 1)),
        }
        for name, scores in self.scores(model, x, targets, sample_ids):
            if name == "integrated_gradients":
                with torch.no_grad():
                    start = target_logits(model(torch.zeros_like(x)), targets)
                gap = scores.sum((1, 2, 3)) - (target_logits(logits, targets) - start)
                columns["integrated_gradients_gap"] = gap.cpu().numpy()
            priority = by_cell(scores, self.cell, self.pooling)
            curves = probability_curves(
                model, x, targets, priority, self.counts, cell=self.cell, fill=self.fill
            )
            columns[name] = curves.cpu().numpy()
        return columns

    def scores(
        self, model: nn.Module, x: Tensor, targets: Tensor, sample_ids: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        """The importance of each pixel, (B, 1, H, W), with the name of the method's column."""
        for method in self.methods:
            explained: dict[str, nn.Module] = {method: model}
            if method in EVIDENCE:
                explained = {
                    f"{method} of {each.label}": _load(each, digest, x.device, self.classes)
                    for each, digest in zip(self.explainers, self.explainer_weights, strict=True)
                }
            for name, network in explained.items():
                rest = sample_ids, self.seed, self.integration_steps
                yield name, attribute(method, network, x, targets, *rest)


@lru_cache
def _load(
    explainer: ModelFile, weights: str, device: torch.device, classes: tuple[str, ...]
) -> nn.Module:
    """Load the explainer once for each process and file."""
    return explainer.load(device, classes)


def table_rows(tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """The mean probability before, and with the most cells masked, for each network and method."""
    return [
        {
            "model": label,
            "method": method,
            "images": table.num_rows,
            "before": mean(table["probability"].to_numpy()),
            "cells": table["counts"][0].as_py()[-1],
            "masked": mean(curves[:, -1]),
        }
        for label, table in tables.items()
        for method, curves in curves_of(table).items()
    ]


def curves_figure(tables: Mapping[str, pa.Table]) -> Figure:
    """A panel for each network: the mean probability of the leading class by masked cells."""
    panels: dict[str, dict[str, Curve]] = {}
    for label, table in tables.items():
        counts = [0, *table["counts"][0].as_py()]
        before = table["probability"].to_numpy()[:, None]
        panels[label] = {}
        lines = {method: cycle(LINES) for method in EVIDENCE}
        for name, curves in curves_of(table).items():
            method = method_of(name)
            line = {"linestyle": next(lines[method])} if method in EVIDENCE else {}
            panels[label][name] = mean_curve(name, counts, np.hstack((before, curves)), **line)
    return panel_figure(panels, "number of masked cells", "probability of the class")
