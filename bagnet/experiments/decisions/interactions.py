"""Tests whether networks add up what they see in separate parts of an image.

Brendel & Bethge (ICLR 2019, under "spatially distinct image manipulations"): let l(x) be the logit
of a class and d_1, d_2, ... changes of the image at separate places. For a BagNet with patches of q
pixels,

    l(x) - l(x + sum d_i) = sum (l(x) - l(x + d_i))

for every image, if no patch can see two of the changes. Pearson's correlation between the two
sides, over images, shows how far other networks are from this. The image is cut into a grid of
squares of q pixels, and every second square of every second row is replaced by its mean colour: one
at a time for the right side, all at once for the left. So the changed squares are q pixels apart.
At 224 px they are .250 of the image for q of 8 and 16, and .327 for 32 and 64. A patch of R pixels
sees two only if R > q + 1.

The paper leaves some details open:

* Class: here the class that the network predicts for the unchanged image.
* Grid, if q does not divide the image: here whole squares, starting at the top left; the rest stays
  as it is.
* Mean colour: here that of each square (--fill mean); --fill has other choices.

The second figure shows where interactions end, which the paper infers from the first. Two squares
of --pair_side pixels with a gap of d pixels are replaced together, and each alone, at --pairs
random places, the same for all images and networks. The interaction at d is

    mean |D_12 - D_1 - D_2| / mean (|D_1| + |D_2|),

where D are changes of the logit, and the means are over places and images: 0 if the squares do not
interact, and 1/2 if either square alone has the effect of both. For a BagNet it is 0 for gaps of
R - 1 and more, up to rounding.

Writes `table.*` and `figure.*` of the correlations, `distance.*` of the pairs, and masks.png: some
images with all squares replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from bagnet.experiments.decisions.options import InteractionsOptions
from bagnet.experiments.measuring.colours import network_colours
from bagnet.experiments.measuring.figures import image_figure, line_figure
from bagnet.experiments.measuring.masking import draw_pairs, every_second, replace, target_logits
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.models import sizes_of
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import FEWEST, bootstrap, pearson
from bagnet.experiments.options import Fill
from bagnet.model.images import IMAGENET_MEAN, IMAGENET_STD
from bagnet.model.registry import normalize
from datamodules.common.batch import Box

SIDES = (8, 16, 32, 64)  # px, the paper's
CORRELATION = {
    "model": ("model", ""),
    "side": ("side (px)", "d"),
    "images": ("images", ",d"),
    "r": ("Pearson's r", ".3f"),
}
DISTANCE = {
    "model": ("model", ""),
    "gap": ("gap (px)", "d"),
    "images": ("images", ",d"),
    "interaction": ("interaction", ".4f"),
}
SHOWN = 4  # images in masks.png
GAPS = (0, 4, 8, 16, 24, 32, 48, 64, 96, 128)  # px


def run(options: InteractionsOptions) -> None:
    """Measure what is missing, and draw all results."""
    size = sizes_of(options).image_size
    sides = options.sides or [side for side in SIDES if 3 * side <= size]
    gaps = options.gaps or [gap for gap in GAPS if 2 * options.pair_side + gap <= size]
    measurement = Interactions(
        tuple(sides), options.fill, tuple(gaps), options.pair_side, options.pairs, options.seed
    )
    if options.models:  # a side or gap that does not fit should fail before the others are measured
        for side in sides:
            every_second(size, size, side)
        for gap in gaps:
            draw_pairs(size, size, options.pair_side, gap, 1, np.random.default_rng())
    tables = measure("interactions", measurement, options, fewest=FEWEST)
    rows = table_rows(tables, "side", "r", pearson, "all", "sum")
    colours = network_colours(options.out, tables)
    ticks = {side: str(side) for side in sorted({row["side"] for row in rows})}
    # Not from 0: all that there is to see often lies above 0.9.
    lows = [row["r"].low for row in rows if math.isfinite(row["r"].low)]
    lowest = math.floor(10 * min([0.95, *lows])) / 10
    grid = line_figure(
        rows,
        "side",
        {"r": "Pearson's r"},
        "side and distance of the masked squares (px)",
        colours,
        ticks=ticks,
        ylim=(lowest, 1.02),
    )
    pairs = table_rows(tables, "gap", "interaction", ratio, "excess", "change")
    panels, title = {"interaction": "interaction"}, "gap between two squares (px)"
    distance = line_figure(pairs, "gap", panels, title, colours, ylim=(0, None))
    written = {"table": (rows, CORRELATION), "distance": (pairs, DISTANCE)}
    figures = {"figure": grid, "distance": distance}
    if options.models:  # so the options are those of the results
        ids = next(iter(tables.values()))["sample_id"].to_numpy()[:SHOWN]
        (images, _, _), _ = open_data(options).batches("val")[0, ids]
        figures["masks"] = image_figure(masked(images, sides, options.fill))
    write_results(options, "interactions", written, figures)


def masked(images: Tensor, sides: Sequence[int], fill: Fill) -> dict[str, Tensor]:
    """Images, uint8 (B, 3, H, W), as they are and with all squares of each side replaced."""
    height, width = images.shape[2:]
    columns = {"as it is": images}
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    for side in sides:
        boxes = every_second(height, width, side)
        pixels = replace(normalize(images), boxes, fill) * std + mean
        share = len(boxes) * side * side / (height * width)
        columns[f"{side} px: {share:.1%}"] = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return columns


@dataclass(frozen=True)
class Interactions:
    """Changes of the leading class's logit for each image.

    Columns: target, the leading class; logit, its logit; for each side s of a grid, all_s, the
    change if all squares are replaced, and sum_s, the sum of the changes for each square alone; for
    each gap d of a pair, excess_d, the mean of abs(D_12 - D_1 - D_2), and change_d, the mean of
    abs(D_1) + abs(D_2).
    """

    sides: tuple[int, ...]
    fill: Fill
    gaps: tuple[int, ...]
    pair_side: int
    pairs: int
    seed: int

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        x = normalize(images)
        logits = model(x)
        targets = logits.argmax(1)
        columns = {"target": targets, "logit": target_logits(logits, targets)}
        height, width = images.shape[2:]
        for side in self.sides:
            boxes = every_second(height, width, side)
            joint, changes = effects(model, x, targets, boxes, self.fill)
            columns |= {f"all_{side}": joint, f"sum_{side}": changes.sum(0)}
        for gap in self.gaps:
            places = np.random.default_rng(self.seed)  # the same places in every batch
            excess, change = [], []
            for pair in draw_pairs(height, width, self.pair_side, gap, self.pairs, places):
                joint, changes = effects(model, x, targets, pair, self.fill)
                excess.append((joint - changes.sum(0)).abs())
                change.append(changes.abs().sum(0))
            columns |= {
                f"excess_{gap}": torch.stack(excess).mean(0),
                f"change_{gap}": torch.stack(change).mean(0),
            }
        return {name: column.cpu().numpy() for name, column in columns.items()}


def effects(
    model: nn.Module, images: Tensor, targets: Tensor, boxes: list[Box], fill: Fill
) -> tuple[Tensor, Tensor]:
    """Measure how much logits fall if boxes are replaced.

    Differences are in float64, so that many of them can be added.

    Args:
        model: Network that gives logits (B, classes).
        images: Normalised images, float (B, 3, H, W).
        targets: Class of each image, int64 (B,).
        boxes: Boxes to replace.
        fill: What replaces them; see `replace`.

    Returns:
        The fall if all boxes are replaced at once (B,), and for each box alone (boxes, B).
    """

    def logits(changed: Tensor) -> Tensor:
        return target_logits(model(changed), targets).double()

    before = logits(images)
    alone = [before - logits(replace(images, [box], fill)) for box in boxes]
    return before - logits(replace(images, boxes, fill)), torch.stack(alone)


def table_rows(
    tables: Mapping[str, pa.Table], x: str, y: str, statistic: Callable[..., float], *columns: str
) -> list[dict[str, Any]]:
    """Rows of a table: a statistic of the columns NAME_x for each network and number x.

    Args:
        tables: The results of each network.
        x: What the number is in the table.
        y: What the statistic is in the table.
        statistic: Function of the columns.
        columns: The columns' names without the number.
    """
    rows = []
    for label, table in tables.items():
        prefix = f"{columns[0]}_"
        for name in (name for name in table.column_names if name.startswith(prefix)):
            number = name.removeprefix(prefix)
            values = (table[f"{column}_{number}"].to_numpy() for column in columns)
            row = {"model": label, x: int(number), "images": table.num_rows}
            rows.append(row | {y: bootstrap(statistic, *values)})
    return rows


def ratio(excess: np.ndarray, change: np.ndarray) -> float:
    """The interaction at a gap, from the columns `excess_d` and `change_d`."""
    total = float(change.sum())
    return float(excess.sum()) / total if total else math.nan
