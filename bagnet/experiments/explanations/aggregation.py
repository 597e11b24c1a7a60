"""How other ways to combine the evidence of patches change accuracy and robustness.

Every way is evaluated on the same evidence maps of BagNets: the mean as trained, the median,
bounded and masked ones (`bagnet/evidence/aggregation.py` defines each). `train.py validate
--aggregations` evaluates the same ways by the same names. They also answer:

* Thresholds: the accuracy if evidence below a threshold is raised to it (clamp), and if it is
  binarised there (Brendel & Bethge's appendix, "Effect of logit thresholding").
* Attacks: the share of images that are classified as their label, and provably stay so whatever is
  put on a square of so many pixels, for tanh (Clipped BagNet) and for masking (PatchGuard). 23, 32
  and 39 pixels are 1, 2 and 3 percent of 224x224, as in PatchGuard's tables.

Writes `table.*` (accuracies), `certified.*` (attacks), `figure.*` (accuracy by threshold), and
LABEL.parquet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bagnet.evidence.aggregation import PLAIN, WITH_THRESHOLD, parse
from bagnet.evidence.certificates import certify_clipped, certify_masked, entries_touched
from bagnet.evidence.maps import evidence_map, require_bagnet
from bagnet.experiments.explanations.options import AggregationOptions
from bagnet.experiments.measuring.figures import Curve, panel_figure
from bagnet.experiments.measuring.measure import measure
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import share
from bagnet.model.registry import normalize
from bagnet.training.metrics import rank_of_label

NAME = "aggregation"
STRONGEST = (1, 10)  # entries
THRESHOLDS = tuple(map(float, range(-20, 65, 5)))  # logits
CERTIFIERS = {"tanh": certify_clipped, "masked": certify_masked}
COLOURS = {"clamp": "#7570b3", "binarise": "#d95f02", "mean": "0.3"}
ACCURACIES = {
    "model": ("model", ""),
    "aggregation": ("aggregation", ""),
    "parameter": ("parameter", ""),
    "images": ("images", ",d"),
    "top1": ("top-1", ".2%"),
    "top5": ("top-5", ".2%"),
}
ATTACKS = {
    "model": ("model", ""),
    "attack": ("attack (px)", "d"),
    "window": ("map entries in a row", "d"),
    "images": ("images", ",d"),
    **{name: (f"certified, {name}", ".2%") for name in CERTIFIERS},
}


def run(options: AggregationOptions) -> None:
    """Measure what is missing, and draw everything that exists."""
    thresholds = tuple(sorted(options.thresholds)) or THRESHOLDS
    measurement = Aggregated(thresholds, tuple(sorted(options.attacks)))
    tables = measure(NAME, measurement, options, check=require_bagnet)
    rows = accuracies(tables)
    written = {"table": (rows, ACCURACIES), "certified": (attacks(tables), ATTACKS)}
    write_results(options, NAME, written, {"figure": threshold_figure(rows)})


@dataclass(frozen=True)
class Aggregated:
    """The rank of the true class by each aggregation, and which attacks cannot change the decision.

    Columns: attacks (px); windows, the map entries in a row that each attack can touch;
    tanh_certified and masked_certified, whether each attack is ruled out; and for each aggregation,
    by its name (such as `clamp:0`), the rank of the true class (0 is right).
    """

    thresholds: tuple[float, ...]  # of clamp and binarise, in logits
    attacks: tuple[int, ...]  # sides of the attacked squares, in pixels

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        bagnet = require_bagnet(model)
        evidence = evidence_map(bagnet, normalize(images))
        windows = [entries_touched(bagnet, pixels) for pixels in self.attacks]
        columns = {
            "attacks": np.tile(self.attacks, (len(images), 1)),
            "windows": np.tile(windows, (len(images), 1)),
        }
        for name, certify in CERTIFIERS.items():
            certified = [certify(evidence, labels, window) for window in windows]
            columns[f"{name}_certified"] = torch.stack(certified, 1).cpu().numpy()
        for name in all_names(self.thresholds, windows, evidence[0, 0].numel()):
            columns[name] = rank_of_label(parse(name)(evidence), labels).cpu().numpy()
        return columns


def all_names(thresholds: Sequence[float], windows: Sequence[int], entries: int) -> list[str]:
    """Names of the aggregations, as `parse` reads them, for maps of so many entries."""
    return [
        *PLAIN,
        *(f"strongest:{count}" for count in STRONGEST if count <= entries),
        *(f"masked:{window}" for window in dict.fromkeys(windows)),
        *(f"{name}:{threshold:.12g}" for name in WITH_THRESHOLD for threshold in thresholds),
    ]


def accuracies(tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """The accuracy of each network by each aggregation."""
    rows = []
    for label, table in tables.items():
        for column in table.column_names[table.column_names.index(next(iter(PLAIN))) :]:
            name, _, parameter = column.partition(":")
            ranks = table[column].to_numpy()
            rows.append(
                {
                    "model": label,
                    "aggregation": name,
                    "parameter": parameter,
                    "images": len(ranks),
                    "top1": share(ranks < 1),
                    "top5": share(ranks < 5),
                }
            )
    return rows


def attacks(tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """The share of each network's images that each attack provably leaves right."""
    rows = []
    for label, table in tables.items():
        certified = {name: np.array(table[f"{name}_certified"].to_pylist()) for name in CERTIFIERS}
        pairs = zip(table["attacks"][0].as_py(), table["windows"][0].as_py(), strict=True)
        for number, (pixels, window) in enumerate(pairs):
            row = {"model": label, "attack": pixels, "window": window, "images": table.num_rows}
            rows.append(row | {name: share(each[:, number]) for name, each in certified.items()})
    return rows


def threshold_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel for each network: its accuracy by threshold, and that of the mean."""
    panels: dict[str, dict[str, Curve]] = {}
    for label in dict.fromkeys(row["model"] for row in rows):
        own = {
            name: [r for r in rows if (r["model"], r["aggregation"]) == (label, name)]
            for name in COLOURS
        }
        thresholds = [float(row["parameter"]) for row in own["clamp"]]
        own["mean"] *= len(thresholds)  # it has none, and is a constant
        curves = panels[label] = {}
        for k, top, line in (("top1", "top-1", "-"), ("top5", "top-5", "--")):
            for name, colour in COLOURS.items():
                value, *band = 100 * np.array([astuple(row[k]) for row in own[name]]).T
                style = {"color": colour, "linestyle": line}
                curves[f"{name}, {top}"] = Curve(thresholds, value, np.array(band), style)
    return panel_figure(panels, "threshold (logits)", "accuracy, %")
