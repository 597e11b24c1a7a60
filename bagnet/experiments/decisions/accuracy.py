"""Measures top-1 and top-5 accuracy, calibration, size, multiply-adds and speed of each network.

The paper (under "accuracy and runtime") gives the top-5 accuracy of BagNets on the validation
images of ImageNet: 87.6% with patches of 33 px and 80.5% with 17. For 9 px it gives no number; the
authors' weights have 70.4%. A BagNet runs at 155 images/s, where ResNet-50 runs at 570, on batches
of 64 images of 3x224x224.

The paper does not specify the preprocessing. Here the shorter side is resized to --data.resize_size
and the central square of --data.image_size is kept, as in the validation of the network's run (256
and 224 px for the recipe on ImageNet). All is in float32 without TF32, which costs the authors'
BagNet-33 2.5 points of top-1. For the speed, the networks take turns in one process on batches of
--data.batch_size images that are already on the device. Intervals are 95% (Wilson), over the
images. The receptive field is that of an entry of the last map; only a BagNet decides by such
entries alone.

In an evaluation set with some of the network's classes, such as ImageNet-A and -R (pack imagefolder
--classes), only these classes count, as their authors define it: the others cannot win.

Calibration, which the paper leaves out, is that of Guo et al. (2017; github.com/gpleiss/
temperature_scaling): the expected calibration error (ECE) of the leading class's probability in 15
bins of equal width, and the loss (negative log-likelihood). The temperature, from 0.25 to 8,
divides all logits so that the loss is smallest; above 1, the network is too confident. So that the
scaled figures are honest, the images are cut into two random halves, and each is scaled by the
temperature that is best for the other. Intervals of losses are bootstrapped, and those of ECE allow
for its bias: chance alone makes it positive, so with few images it may lie above its interval.

Writes to OUT/accuracy: table, figure, calibration (the table), reliability (its diagram: accuracy
against confidence), LABEL.parquet (predicted class; rank of the true class, 0 is right;
probabilities of both; losses and confidences at 21 temperatures), and networks.json (what does not
depend on the images).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from bagnet.experiments.decisions import calibration
from bagnet.experiments.decisions.networks import facts
from bagnet.experiments.measuring.colours import network_colours
from bagnet.experiments.measuring.figures import Rows, bar_figure
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.models import parse_models, sizes_of
from bagnet.experiments.measuring.parts import is_imagenet, record_of
from bagnet.experiments.measuring.results import Columns, write_results
from bagnet.experiments.measuring.statistics import share
from bagnet.experiments.options import MeasureOptions
from bagnet.model.registry import normalize
from bagnet.training.metrics import among, rank_of_label
from datamodules.common.files import write_text
from datamodules.common.texts import read_json

NAME = "accuracy"
PAPER_TOP5 = {"bagnet17": 0.805, "bagnet33": 0.876, "vgg16": 0.901}
PAPER_SPEED = {"bagnet9": 155, "bagnet17": 155, "bagnet33": 155, "resnet50": 570}

COLUMNS = {
    "model": ("network", ""),
    "images": ("images", ","),
    "classes": ("classes", ","),
    "top1": ("top-1", ".1%"),
    "top5": ("top-5", ".1%"),
    "paper_top5": ("top-5, paper", ".1%"),
    "parameters": ("parameters", ","),
    "multiply_adds": ("multiply-adds, 10^9", ".3g"),
    "receptive_field": ("receptive field, px", ""),
    "images_per_second": ("images/s", ".3g"),
    "paper_images_per_second": ("images/s, paper", ""),
    "device": ("on", ""),
}


@dataclass(frozen=True)
class Predictions:
    """The prediction of each image.

    Columns: predicted, the leading class; rank, that of the true class; probability, that of the
    true class; confidence, the probability of the leading class; and those of
    `calibration.at_temperatures`.

    Attributes:
        temperatures: Their number. It is in the repr, so that older results are told apart.
        present: Labels of the classes that count; None for all. It is not in the repr, because the
            data decide it.
    """

    temperatures: int = len(calibration.TEMPERATURES)
    present: tuple[int, ...] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, options: MeasureOptions) -> Predictions:
        """Those of the options' data, if anything is to be measured."""
        return cls(present=open_data(options).present if options.models else None)

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        with torch.no_grad():
            logits = model(normalize(images)).double()
        if self.present is not None:
            logits = among(logits, torch.tensor(self.present, device=logits.device))
        probabilities = logits.softmax(1)
        columns = {
            "predicted": logits.argmax(1),
            "rank": rank_of_label(logits, labels),
            "probability": probabilities.gather(1, labels[:, None])[:, 0],
            "confidence": probabilities.amax(1),
            **calibration.at_temperatures(logits, labels),
        }
        return {key: column.cpu().numpy() for key, column in columns.items()}


def run(options: MeasureOptions) -> None:
    """Measure, print the table, and write the files."""
    tables = measure(NAME, Predictions.of(options), options)
    known = _networks(tables, options, options.out / NAME / "networks.json")
    rows = [_row(label, table, known.get(label, {})) for label, table in tables.items()]
    bars = {"top5": "top-5", "top1": "top-1"}
    mark = "paper_top5", "top-5 in the paper"
    colours = network_colours(options.out, tables)
    figures = {"figure": bar_figure(rows, bars, mark, "accuracy, %", colours)}
    columns = {key: column for key, column in COLUMNS.items() if any(key in row for row in rows)}
    written: dict[str, tuple[Rows, Columns]] = {"table": (rows, columns)}
    if any("losses" not in table.column_names for table in tables.values()):
        folder = options.out / NAME
        print(f"no calibration: {folder} is from an earlier version; delete it, and measure again")
    elif networks := calibration.calibrations(tables):
        calibrated = calibration.rows_of(networks)
        written["calibration"] = calibrated, calibration.COLUMNS
        figures["reliability"] = calibration.draw(networks, calibrated, colours)
    write_results(options, NAME, written, figures)


def _row(label: str, table: pa.Table, network: Mapping[str, Any]) -> dict[str, Any]:
    ranks = table["rank"].to_numpy()
    row = {
        "model": label,
        "images": len(ranks),
        "top1": share(ranks < 1),
        "top5": share(ranks < 5),
        **network,
    }
    if evaluated := record_of(table.schema).get("evaluation"):
        row["classes"] = evaluated
    if is_imagenet(table):
        row["paper_top5"] = PAPER_TOP5.get(label)
        row["paper_images_per_second"] = PAPER_SPEED.get(label)
    return row


def _networks(
    tables: Mapping[str, pa.Table], options: MeasureOptions, path: Path
) -> dict[str, dict[str, Any]]:
    """Measure the networks of --models, and read the facts about all others."""
    known: dict[str, dict[str, Any]] = {}
    if path.exists():
        known = read_json(path, remedy := "delete it, and measure again")
        if not isinstance(known, dict) or not all(isinstance(own, dict) for own in known.values()):
            raise ValueError(f"{path} is no table of networks; {remedy}")
    if options.models:
        on_gpu = torch.cuda.is_available() and options.gpus != 0
        device = torch.device("cuda:0" if on_gpu else "cpu")
        classes = record_of(next(iter(tables.values())).schema)["classes"]
        files = parse_models(options.models)
        size = sizes_of(options).image_size
        models = {file.label: file.load(device, classes) for file in files}
        known |= facts(models, size, options.data.batch_size, device)
        write_text(json.dumps(known, indent=1) + "\n", path)
    return known
