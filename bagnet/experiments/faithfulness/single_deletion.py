"""Whether attributions order the parts of an image as deleting them one by one does (IDSDS).

This is the in-domain single-deletion score of Hesse, Schaub-Meyer & Roth ("Benchmarking the
Attribution Quality of Vision Models", NeurIPS 2024; github.com/visinf/idsds). The image is cut into
4x4 cells (--grid). Each of them alone is deleted, that is, becomes ImageNet's mean colour, and the
logit of the true class falls. The score of an image is Spearman's correlation of these falls with
the attribution to that class, summed over each cell; that of a method is the mean over images. It
is 1 if the order is the same, and 0 on average for a random one. The deletions themselves are the
reference, so networks can be compared, too.

The score is in domain only for networks that were trained with deleted cells: the authors fine-tune
each of theirs for 30 epochs, with one random cell deleted in half of the images. For all others, it
is what they call single deletion. The experiment does not know how a network was trained; "top-1,
cell deleted", the accuracy on all images with one deleted cell, is far below top-1 if deletions
confuse it. This in a config of train.py comes close: it deletes a square of a cell's size in half
of the images, in a grey like the mean colour, but anywhere.

    data:
      augment:
      - class_path: torchvision.transforms.v2.RandomErasing
        init_args: {p: 0.5, scale: [0.0625, 0.0625], ratio: [1, 1], value: 115}

As in the authors' code: the true class; logits, not probabilities; attributions with their signs
(--pooling absolute is their variant without); and images are left out of a mean where a method
gives all cells the same ("no order"). Unlike there, `saliency` has no sign, Integrated Gradients
takes 32 steps instead of 50 (--integration_steps), and the cells must cover the image.
`faithfulness/attribution.py` describes all methods. The authors explain BagNets by `evidence`;
`pixel_evidence` has the order of the falls, and so a score of 1, if no patch sees two cells.

Writes `table.*`, `figure.*`, and LABEL.parquet (the falls, and the attribution to each cell).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy import stats
from torch import Tensor, nn

from bagnet.experiments.faithfulness.attribution import attribute, by_cell, check_methods
from bagnet.experiments.faithfulness.curves import EVIDENCE, curves_of
from bagnet.experiments.faithfulness.options import METHODS, Method, Pooling, SingleDeletionOptions
from bagnet.experiments.measuring.colours import network_colours
from bagnet.experiments.measuring.figures import point_figure
from bagnet.experiments.measuring.masking import cells, replace, target_logits
from bagnet.experiments.measuring.measure import measure
from bagnet.experiments.measuring.models import sizes_of
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import FEWEST, bootstrap, mean, share
from bagnet.experiments.options import Fill
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from bagnet.training.metrics import rank_of_label

NAME = "single_deletion"
TITLES = {
    "model": ("model", ""),
    "method": ("importance", ""),
    "images": ("images", ",d"),
    "top1": ("top-1", ".1%"),
    "top1_deleted": ("top-1, cell deleted", ".1%"),
    "no_order": ("no order", ",d"),
    "correlation": ("rank correlation", ".3f"),
}


def run(options: SingleDeletionOptions) -> None:
    """Measure what is missing, and draw everything that exists.

    Raises:
        ValueError: The images cannot be cut into such a grid.
    """
    _check_grid(options)
    measurement = SingleDeletion(
        *(tuple(options.methods) or METHODS, options.grid, options.fill, options.pooling),
        *(options.seed, options.integration_steps),
    )
    check = partial(check_methods, options.methods)
    tables = measure(NAME, measurement, options, check=check, fewest=FEWEST)
    rows = table_rows(tables)
    colours = network_colours(options.out, tables)
    xlabel = "rank correlation of attributions with falls of the logit"
    figure = point_figure(rows, "method", "correlation", xlabel, colours)
    write_results(options, NAME, {"table": (rows, TITLES)}, {"figure": figure})


def _check_grid(options: SingleDeletionOptions) -> None:
    side = sizes_of(options).image_size
    divisors = [n for n in range(2, side + 1) if side % n == 0]
    if options.grid not in divisors:
        raise ValueError(
            f"--grid {options.grid} does not cut images of {side} px into equal cells: give one of "
            f"{', '.join(map(str, divisors))}, or another --data.image_size"
        )


@dataclass(frozen=True)
class SingleDeletion:
    """What deleting each cell of an image does, and what methods attribute to it.

    Columns: rank, that of the true class (0 is right); for each cell, row by row, falls, how much
    the logit of the true class falls without it, and rank_deleted; and METHOD, the attribution of
    each method that the network has to each cell.
    """

    methods: tuple[Method, ...]
    grid: int
    fill: Fill
    pooling: Pooling
    seed: int
    integration_steps: int = 32

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        x = normalize(images)
        height, width = x.shape[2:]
        side = height // self.grid
        with torch.no_grad():
            logits = model(x)
            deleted = [model(replace(x, [box], self.fill)) for box in cells(height, width, side)]
        before = target_logits(logits, labels)
        columns = {
            "rank": rank_of_label(logits, labels),
            "falls": torch.stack([before - target_logits(each, labels) for each in deleted], 1),
            "rank_deleted": torch.stack([rank_of_label(each, labels) for each in deleted], 1),
        }
        for method in self.methods:
            if method in EVIDENCE and not isinstance(model, BagNet):
                continue
            scores = attribute(
                method, model, x, labels, sample_ids, self.seed, self.integration_steps
            )
            columns[method] = by_cell(scores, side, self.pooling).flatten(1)
        return {name: column.cpu().numpy() for name, column in columns.items()}


def rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of a with that of b: (n, cells) each -> (n,).

    NaN if one of the two rows is constant.
    """
    a, b = (stats.rankdata(each, axis=1) - (each.shape[1] + 1) / 2 for each in (a, b))
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    scale[scale == 0] = math.nan
    correlations: np.ndarray = (a * b).sum(1) / scale
    return correlations


def table_rows(tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """The accuracy of each network, and the correlation for each of its methods."""
    rows = []
    for label, table in tables.items():
        falls, ranks = (np.array(table[name].to_pylist()) for name in ("falls", "rank_deleted"))
        network = {
            "model": label,
            "images": table.num_rows,
            "top1": share(table["rank"].to_numpy() < 1),
            "top1_deleted": mean((ranks < 1).mean(1)),
        }
        for method, attributions in curves_of(table).items():
            correlations = rank_correlations(attributions, falls)
            row = {"method": method, "no_order": int(np.isnan(correlations).sum())}
            rows.append(network | row | {"correlation": bootstrap(mean_of_known, correlations)})
    return rows


def mean_of_known(values: np.ndarray) -> float:
    """The mean of those that are not NaN, or NaN if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
