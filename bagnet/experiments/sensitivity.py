"""How much networks depend on the parts of an image that a BagNet, or their own attribution, holds for important.

Brendel & Bethge (ICLR 2019, under "spatial sensitivity", with the figure and table of the probability of the leading class): the most
important cells of 8x8 pixels are masked, more and more of them, and the probability of the class that the unchanged image
was taken for is followed. What is important is told by the heat map of a BagNet, by attributions of the tested network
itself, or by chance. In the paper, the BagNet's heat maps found what VGG-16, ResNet-50, ResNet-152 and DenseNet-169 rest on better
than these networks' own attributions, which know all about them.

The methods, all for the leading class of the tested network:

* evidence: of the BagNet that --explainer names, around every pixel (`bagnet.evidence.dense_evidence`).
* saliency, integrated_gradients, smoothgrad, gradcam: `attribution.py` says how each is set.
* random: another order for each image.

What the paper leaves open, and what is done here:

* The mask: the cell becomes the mean colour of ImageNet (--fill zero); "mean", "image" and "blur" are other choices.
* The importance of a cell: the mean of the attribution over its pixels, summed over the colours (--aggregate mean);
  "absolute" takes the mean of its magnitude and "max" its largest value.
* The paper's other attributions, DeepLIFT and epsilon-LRP, are defined by the kinds of layers and not by the network; they
  are left out.

Writes table.*, the mean probability at the largest number of cells, and figure.*, the curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bagnet.evidence import BagNetExplainer
from bagnet.experiments.measuring.attribution import attribute, by_cell
from bagnet.experiments.measuring.masking import cells, replace, target_logits
from bagnet.experiments.measuring.measure import measure
from bagnet.experiments.measuring.models import ModelFile, parse_models
from bagnet.experiments.measuring.results import log_to_wandb, save_figure, write_table
from bagnet.experiments.measuring.statistics import mean
from bagnet.experiments.options import METHODS, SensitivityOptions
from bagnet.model.registry import normalize
from datamodules.shards.manifest import sha256_of

COUNTS = tuple(range(1, 101))
TITLES = {
    "model": ("model", ""),
    "method": ("most important by", ""),
    "images": ("images", ",d"),
    "before": ("p before", ".3f"),
    "cells": ("masked cells", "d"),
    "masked": ("p masked", ".3f"),
}


def run(options: SensitivityOptions) -> None:
    """Measure what is missing, and draw all there is."""
    explainer = None
    if options.models and "evidence" in options.methods:
        explainer = _chosen(parse_models(options.models), options.explainer)
    measurement = Sensitivity(
        tuple(options.methods),
        tuple(sorted(options.counts)) or COUNTS,
        options.cell,
        options.fill,
        options.aggregate,
        options.seed,
        explainer,
        sha256_of(explainer.path) if explainer else None,
    )
    tables = measure("sensitivity", measurement, options)
    folder = options.out / "sensitivity"
    write_table(table_rows(tables), TITLES, folder / "table")
    save_figure(curves_figure(tables), folder / "figure")
    if options.wandb:
        log_to_wandb("sensitivity", folder)


def _chosen(models: Sequence[ModelFile], label: str | None) -> ModelFile:
    """The network whose evidence is used."""
    for subject in models:
        if subject.label == label:
            return subject
    names = ", ".join(subject.label for subject in models)
    raise ValueError(
        f"--explainer {label}: --methods evidence needs the heat maps of a BagNet; give the label of one of --models "
        f"({names}), or leave evidence out"
    )


@dataclass(frozen=True)
class Sensitivity:
    """The probability of the leading class as more and more cells are masked, for each image.

    Columns: target, the leading class; probability, of the unchanged image; counts, the numbers of masked cells; and for
    each method, the probabilities then.

    Attributes:
        explainer: The BagNet of the method "evidence".
        explainer_weights: The digest of its file, which is what the record of the results tells.
    """

    methods: tuple[str, ...]
    counts: tuple[int, ...]
    cell: int
    fill: str
    aggregate: str
    seed: int
    explainer: ModelFile | None = field(default=None, repr=False)
    explainer_weights: str | None = None

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
        for method in self.methods:
            if method == "evidence":
                assert self.explainer is not None, "run gives both"
                assert self.explainer_weights is not None, "run gives both"
                explainer = _load(self.explainer, self.explainer_weights, x.device, logits.shape[1])
                scores = BagNetExplainer(explainer).explain(x, targets)
            else:
                scores = attribute(method, model, x, targets, sample_ids, self.seed)
            priority = by_cell(scores, self.cell, self.aggregate)
            curves = masking_curves(
                model, x, targets, priority, self.counts, cell=self.cell, fill=self.fill
            )
            columns[method] = curves.cpu().numpy()
        return columns


def probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Of one class for each image: (B, classes) and (B,) -> float64 (B,)."""
    return target_logits(logits.double().softmax(1), targets)


@torch.no_grad()
def masking_curves(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    priority: Tensor,
    counts: Sequence[int],
    *,
    cell: int,
    fill: str,
) -> Tensor:
    """The probability of a class when the most important cells of an image are masked.

    Args:
        model: Gives logits (B, classes).
        images: Normalised, float (B, 3, H, W).
        targets: The class of each image, int64 (B,).
        priority: Of each cell, as from `by_cell`; the largest goes first, and of equals the one that is further up or left.
        counts: Numbers of cells to mask.
        cell: Their side in pixels.
        fill: One of ``masking.FILLS``.

    Returns:
        float64 (B, counts).

    Raises:
        ValueError: The image has fewer cells.
    """
    height, width = images.shape[2:]
    rows, columns = priority.shape[1:]
    if not 0 <= min(counts) <= max(counts) <= rows * columns:
        raise ValueError(
            f"--counts {min(counts)} to {max(counts)}: an image of {height}x{width} px has {rows * columns} cells of "
            f"{cell} px to mask; give numbers from 0 to that, or another --cell"
        )
    masked = replace(images, cells(height, width, cell), fill)
    order = priority.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view(-1, 1, rows, columns)
    rank = rank.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[..., :height, :width]
    curves = [
        probabilities(model(torch.where(rank < count, masked, images)), targets) for count in counts
    ]
    return torch.stack(curves, 1)


@lru_cache(maxsize=1)
def _load(explainer: ModelFile, weights: str, device: torch.device, num_classes: int) -> nn.Module:
    """Once for each process and file."""
    return explainer.load(device, num_classes)


def table_rows(tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """The mean probability before, and with the most cells masked, for each network and method."""
    rows = []
    for label, table in tables.items():
        counts = table["counts"][0].as_py()
        for method in _methods(table):
            last = np.array([curve[-1] for curve in table[method].to_pylist()])
            rows.append(
                {
                    "model": label,
                    "method": method,
                    "images": table.num_rows,
                    "before": float(np.mean(table["probability"].to_numpy())),
                    "cells": counts[-1],
                    "masked": mean(last),
                }
            )
    return rows


def curves_figure(tables: Mapping[str, pa.Table]) -> Figure:
    """A panel for each network: the mean probability of the leading class against the number of masked cells."""
    figure = Figure(figsize=(3.2 * len(tables) + 1.6, 3.4), facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (label, table) in zip(panels, tables.items(), strict=True):
        counts = [0, *table["counts"][0].as_py()]
        before = np.mean(table["probability"].to_numpy())
        for method in _methods(table):
            curve = np.mean(table[method].to_pylist(), axis=0)
            style = "k--" if method == "random" else f"C{METHODS.index(method)}-"
            axes.plot(counts, [before, *curve], style, label=method.replace("_", " "))
        axes.set(xlabel="masked cells")
        axes.set_title(label, fontsize=10)
    panels[0].set(ylabel="probability of the leading class")
    panels[0].set_ylim(bottom=0)  # and so in all
    panels[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _methods(table: pa.Table) -> list[str]:
    return [method for method in METHODS if method in table.column_names]
