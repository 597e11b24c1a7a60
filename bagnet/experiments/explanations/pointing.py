"""Whether the evidence points at what determines the class, on the demo's images.

For each validation image, take the patch with the strongest evidence for the predicted class: the
patch that the decision rests on most. A map has one entry for each stride (8 px), so an entry
stands for the cell of one stride around the centre of its patch, which is also how the pictures
draw it. It points at a texture if its cell touches the box of one. The baseline is the share of all
entries that do, which is what a random patch gets; the same measure for the true class is also
given.

The data is what `python -m datamodules.demo` makes. Its textures are smaller than a patch, and its
images are measured at their own size, where the planted boxes hold: leave --data.image_size and
--data.resize_size out.

Writes `table.*`, `figure.*`, LABEL.parquet, and `LABEL-evidence.*` (an image of each class with the
evidence for the predicted one).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bagnet.evidence.maps import evidence_map, require_bagnet
from bagnet.evidence.pictures.plots import Example, contact_sheet
from bagnet.experiments.measuring.colours import network_colours
from bagnet.experiments.measuring.figures import bar_figure
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.models import ModelFile, parse_models
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import share
from bagnet.experiments.options import DataOptions, MeasureOptions
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from bagnet.training.metrics import rank_of_label
from datamodules.common.batch import Box
from datamodules.common.texts import read_text
from datamodules.demo.generate import PLANTED
from datamodules.imagenet import ImageNetDataModule

NAME = "pointing"
SHOWN = 12  # images in a picture, at most
TITLES = {
    "model": ("model", ""),
    "images": ("images", ",d"),
    "top1": ("top-1", ".1%"),
    "top5": ("top-5", ".1%"),
    "points": ("strongest patch lies on a texture", ".1%"),
    "points_true": ("for the true class", ".1%"),
    "chance": ("for a random patch", ".1%"),
}

Boxes = Mapping[int, Sequence[Box]]
"""The planted textures of each image, by sample id."""


def run(options: MeasureOptions) -> None:
    """Measure what is missing, and draw everything that exists."""
    measurement, data = Pointing({}), None
    if options.models:
        size, boxes = load_planted(open_data(options))
        options = replace(options, data=_at_size(options.data, size))
        measurement, data = Pointing(boxes), open_data(options)
    tables = measure(NAME, measurement, options, check=require_bagnet)
    rows = [_row(label, table) for label, table in tables.items()]
    bars = {"points": "strongest patch", "points_true": "the same for the true class"}
    mark = ("chance", "random patch")
    colours = network_colours(options.out, tables)
    xlabel = "on a planted texture, % of the images"
    figures = {"figure": bar_figure(rows, bars, mark, xlabel, colours)}
    if data is not None:
        for model in parse_models(options.models):
            figure = evidence_figure(model, data, tables[model.label], measurement)
            figures[f"{model.label}-evidence"] = figure
    write_results(options, NAME, {"table": (rows, TITLES)}, figures)


def _at_size(data: DataOptions, size: int) -> DataOptions:
    """The options for images of this size, unless they ask for another."""
    given = (data.image_size, data.resize_size)
    if given not in ((None, None), (size, size)):
        raise ValueError(
            f"--data.image_size {data.image_size} --data.resize_size {data.resize_size}: the "
            f"planted boxes hold at {size} px only; leave both out"
        )
    return replace(data, image_size=size, resize_size=size)


def load_planted(data: ImageNetDataModule) -> tuple[int, Boxes]:
    """Read the size of the validation images, in pixels, and what is planted in them.

    Raises:
        ValueError: The data has no such file, or the file is damaged or lacks an image.
    """
    path = Path(data.root) / "val" / PLANTED
    manifest = data.val_manifest
    keys = {sample_id: manifest.sample(sample_id).key for sample_id in range(manifest.num_samples)}
    try:
        planted = json.loads(read_text(path))
        images = {sample_id: planted["images"][key] for sample_id, key in keys.items()}
        boxes = {n: [tuple(box) for box in image["textures"]] for n, image in images.items()}
        return int(planted["image_size"]), boxes
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} does not say what is planted in the images ({type(error).__name__}: {error}): "
            "make the data with `python -m datamodules.demo`"
        ) from None


@dataclass(frozen=True)
class Pointing:
    """Whether the strongest evidence lies on a planted texture.

    Columns: predicted; rank, that of the true class, 0 is right; points and points_true, whether
    the strongest evidence for the predicted and the true class does; chance, the share of the map's
    entries that do.
    """

    boxes: Boxes = field(repr=False)

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray | list[Any]]:
        bagnet = require_bagnet(model)
        inputs = normalize(images)
        logits, evidence = model(inputs), evidence_map(bagnet, inputs)
        predicted = logits.argmax(1)
        boxes = (self.boxes[sample_id] for sample_id in sample_ids.tolist())
        maps = [on_boxes(bagnet, evidence.shape[2:], planted).ravel() for planted in boxes]
        on_texture = np.stack(maps)
        rows = torch.arange(len(images), device=images.device)
        columns: dict[str, Any] = {
            "predicted": predicted.cpu().numpy(),
            "rank": rank_of_label(logits, labels).cpu().numpy(),
            "chance": on_texture.mean(1),
        }
        for name, classes in (("points", predicted), ("points_true", labels)):
            strongest = evidence[rows, classes].flatten(1).argmax(1).cpu().numpy()
            columns[name] = on_texture[np.arange(len(images)), strongest]
        return columns


def on_boxes(model: BagNet, shape: Sequence[int], boxes: Sequence[Box]) -> np.ndarray:
    """Which entries of a map have a cell that touches one of the boxes (half-open), bool (H', W').

    An entry's cell is the square of one stride around its patch's centre.
    """
    touches = np.zeros(shape, dtype=bool)
    half = model.stride / 2
    for i, j in np.ndindex(*shape):
        top, left, bottom, right = model.box(i, j)
        y, x = (top + bottom) / 2, (left + right) / 2
        touches[i, j] = any(
            y - half < bottom and top < y + half and x - half < right and left < x + half
            for top, left, bottom, right in boxes
        )
    return touches


def _row(label: str, table: pa.Table) -> dict[str, Any]:
    ranks = table["rank"].to_numpy()
    row = {"model": label, "images": len(ranks), "top1": share(ranks < 1), "top5": share(ranks < 5)}
    for name in ("points", "points_true"):
        row[name] = share(table[name].to_numpy(zero_copy_only=False))
    return row | {"chance": float(np.mean(table["chance"].to_numpy()))}


def evidence_figure(
    file: ModelFile, data: ImageNetDataModule, table: pa.Table, measurement: Pointing
) -> Figure:
    """The first measured image of each class, with the evidence for the predicted class."""
    model = require_bagnet(file.load(torch.device("cpu"), data.classes))
    _, first = np.unique(table["label"].to_numpy(), return_index=True)
    ids = table["sample_id"].to_numpy()[first[:SHOWN]]
    (images, labels, _), _ = data.batches("val")[0, ids]
    inputs = normalize(images)
    with torch.no_grad():
        # Two passes, as each caption shows that both ways to the logit agree.
        logits, evidence = model(inputs), model.logits_map(inputs)
    names = data.class_names
    examples = []
    for n, sample_id in enumerate(ids.tolist()):
        predicted = int(logits[n].argmax())
        example = Example(
            image=images[n].permute(1, 2, 0).numpy(),
            evidence=evidence[n, predicted].numpy(),
            logit=float(logits[n, predicted]),
            true=names[labels[n]],
            predicted=names[predicted],
            planted=measurement.boxes[sample_id],
        )
        examples.append(example)
    return contact_sheet(examples, model.box)
