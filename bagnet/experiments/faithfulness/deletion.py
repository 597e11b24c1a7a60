"""How fast a decision disappears, or appears, with the pixels that its own evidence ranks first.

The image is cut into cells of 8x8 pixels. Deletion replaces them by ImageNet's mean colour one
after the other, beginning with the most important for the predicted class; insertion starts from
the mean colour and puts them back in the same order. The area under the probability of the class
says how good the ranking is: small for deletion, large for insertion. The measures are those of
RISE (Petsiuk et al., BMVC 2018), which removes single pixels instead of cells, and inserts them
into a blurred image.

--methods chooses what ranks the cells: by default the BagNet's own dense evidence, and a random
order as the baseline. Other networks than BagNets have no evidence; for them, choose from the other
methods (`faithfulness/attribution.py`). `sensitivity` asks the same about a network that is not the
explained one.

Writes `table.*` (the mean areas), `figure.*` (the mean curves), and LABEL.parquet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bagnet.experiments.faithfulness.attribution import attribute, by_cell, check_methods
from bagnet.experiments.faithfulness.curves import curves_of, mean_curve
from bagnet.experiments.faithfulness.options import DeletionOptions, Method, Pooling
from bagnet.experiments.measuring.figures import Curve, panel_figure
from bagnet.experiments.measuring.masking import probability_curves
from bagnet.experiments.measuring.measure import measure
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import FEWEST, mean
from bagnet.experiments.options import Fill
from bagnet.model.registry import normalize

NAME = "deletion"
KINDS = ("deletion", "insertion")
TITLES = {
    "model": ("model", ""),
    "method": ("importance", ""),
    "images": ("images", ",d"),
    "deletion": ("area, deletion", ".3f"),
    "insertion": ("area, insertion", ".3f"),
}


def run(options: DeletionOptions) -> None:
    """Measure what is missing, and draw everything that exists."""
    methods = tuple(options.methods) or ("evidence", "random")
    measurement = Deletion(
        *(methods, options.steps, options.cell, options.fill, options.pooling, options.seed),
        options.integration_steps,
    )
    check = partial(check_methods, methods)
    tables = measure(NAME, measurement, options, check=check, fewest=FEWEST)
    written = {"table": (table_rows(tables), TITLES)}
    write_results(options, NAME, written, {"figure": curves_figure(tables)})


@dataclass(frozen=True)
class Deletion:
    """The probability of the predicted class as its cells are deleted, and as they are inserted.

    Columns: target, the predicted class; and for each method, deletion_METHOD and insertion_METHOD,
    the steps + 1 probabilities after equal numbers of cells.
    """

    methods: tuple[Method, ...]
    steps: int
    cell: int
    fill: Fill
    pooling: Pooling
    seed: int
    integration_steps: int = 32

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        x = normalize(images)
        with torch.no_grad():
            targets = model(x).argmax(1)
        columns = {"target": targets.cpu().numpy()}
        for method in self.methods:
            scores = attribute(
                method, model, x, targets, sample_ids, self.seed, self.integration_steps
            )
            priority = by_cell(scores, self.cell, self.pooling)
            counts = np.linspace(0, priority[0].numel(), self.steps + 1).round().astype(int)
            curves = partial(
                probability_curves,
                *(model, x, targets, priority, counts.tolist()),
                cell=self.cell,
                fill=self.fill,
            )
            columns[f"deletion_{method}"] = curves().cpu().numpy()
            columns[f"insertion_{method}"] = curves(insert=True).cpu().numpy()
        return columns


def areas(curves: np.ndarray) -> np.ndarray:
    """The areas under curves at equal distances over [0, 1]: (images, points) -> (images,)."""
    means: np.ndarray = (curves[:, 1:] + curves[:, :-1]).mean(1) / 2
    return means


def table_rows(tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """The mean areas for each network and method."""
    rows = []
    for label, table in tables.items():
        deletion, insertion = (curves_of(table, f"{kind}_") for kind in KINDS)
        for method in deletion:
            row = {"model": label, "method": method, "images": table.num_rows}
            row["deletion"] = mean(areas(deletion[method]))
            rows.append(row | {"insertion": mean(areas(insertion[method]))})
    return rows


def curves_figure(tables: Mapping[str, pa.Table]) -> Figure:
    """Two panels for each network: the mean curves of deletion and insertion."""
    panels: dict[str, dict[str, Curve]] = {
        f"{label}: {kind}": {
            method: mean_curve(method, np.linspace(0, 1, curves.shape[1]), curves)
            for method, curves in curves_of(table, f"{kind}_").items()
        }
        for label, table in tables.items()
        for kind in KINDS
    }
    return panel_figure(panels, "share of the cells", "probability of the class", columns=2)
