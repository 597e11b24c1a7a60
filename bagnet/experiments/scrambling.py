"""Measures accuracy on images whose parts are kept but whose order is lost.

Brendel & Bethge (ICLR 2019, under "image scrambling"): a bag of local features does not know where
its parts are, so scrambling them must not change its decision. For networks whose receptive fields
overlap there is no exact way to do this; textures synthesised from the Gram matrices of a VGG
(Gatys et al. 2015) come close. VGG-16 has a top-5 accuracy of 90.1% on images and of 79.4% on their
textures (79.7% in a summary of the paper).

The order is lost in two ways:

* Tiles: the image is cut into n x n tiles, which are shuffled by --seed and the sample's number.
  n must divide the image's side, so that no pixel is lost or resampled. This is not in the paper. A
  BagNet whose patches are smaller than a tile is almost immune, because only the patches across the
  seams change.
* Textures, with --texture_network vgg16=FILE: synthesised from noise, see measuring/textures.py.
  The paper says that features of a VGG are used, but not which, nor how. The defaults (conv1_1 and
  pool1 to pool4 with equal weights, 500 steps of L-BFGS, Gaussian noise, max pooling) are those of
  Gatys et al. or close to them. Textures that exist are not made again.

500 steps of VGG-16 take 14.6 tera multiply-adds for an image of 224x224 pixels: --limit sets the
number of images. "Same class" is the share of images for which the network chooses the same class
as for the unchanged image.

Writes scrambling/table.* and figure.*, examples.png of some images, textures/LABEL/*.png, and
texturised/table.*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bagnet.experiments.measuring.lines import draw_lines, scale_by_two
from bagnet.experiments.measuring.measure import measure, open_data, record_of
from bagnet.experiments.measuring.results import log_to_wandb, save_figure, write_table
from bagnet.experiments.measuring.statistics import mean
from bagnet.experiments.measuring.textures import Synthesis, TextureNetwork, read_pictures
from bagnet.experiments.measuring.tiles import check_divides, orders, shuffle_tiles
from bagnet.experiments.options import ScramblingOptions
from bagnet.model.registry import normalize
from bagnet.training.metrics import rank_of_label

TILES = (2, 4, 7, 8, 14, 16)  # in a row; those that divide the image's side
SHOWN = 6  # images in examples.png
PAPER = {("vgg16", "image"): 0.901, ("vgg16", "texture"): 0.794}  # top-5
COLUMNS = {
    "model": ("model", ""),
    "order": ("image", ""),
    "images": ("images", ",d"),
    "top1": ("top-1", ".1%"),
    "top5": ("top-5", ".1%"),
    "same": ("same class", ".1%"),
}


def run(options: ScramblingOptions) -> None:
    """Measure what is missing, and draw all results."""
    fitting = [n for n in TILES if options.data.image_size % n == 0]
    tiles = options.tiles or fitting or TILES  # if none fits, the message says so
    for count in tiles:
        check_divides(options.data.image_size, count)
    folder = options.out / "scrambling"
    tables = measure("scrambling", ShuffledTiles(tuple(tiles), options.seed), options)
    rows = tile_rows(tables)
    write_table(rows, COLUMNS, folder / "table")
    save_figure(accuracy_figure(rows), folder / "figure")
    folders = [folder]
    if options.texture_network or (options.out / "texturised").is_dir():
        texturised = _texturised(options)
        folders.append(options.out / "texturised")
        columns = COLUMNS | {"paper": ("paper's top-5", ".1%")}
        write_table(texture_rows(texturised), columns, folders[-1] / "table")
    if options.models:  # so the options are those of the results
        ids = next(iter(tables.values()))["sample_id"].to_numpy()[:SHOWN]
        save_figure(
            examples_figure(options, ids, sorted({row["count"] for row in rows})),
            folder / "examples",
        )
    if options.wandb:
        for written in folders:
            log_to_wandb(written.name, written)


def _texturised(options: ScramblingOptions) -> dict[str, pa.Table]:
    """Synthesise and measure what is missing; without a texture network, read existing results."""
    if not options.models or options.texture_network is None:
        return measure("texturised", Textures("", Path()), options, models=[])
    network = TextureNetwork.parse(options.texture_network)
    pictures = options.out / "textures" / network.label
    synthesis = Synthesis(pictures, tuple(options.layers), options.steps, options.seed)
    made = record_of(measure("textures", synthesis, options, [network])[network.label])
    origin = f"{made['measurement']} by {network.label} {made['weights']}"
    return measure("texturised", Textures(origin, pictures), options)


@dataclass(frozen=True)
class ShuffledTiles:
    """Decisions on images as they are, and with shuffled tiles.

    Columns: for each number n of tiles in a row, including 1, predicted_n, the leading class, and
    rank_n, the rank of the true class (0 is right).
    """

    counts: tuple[int, ...]
    seed: int

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        columns: dict[str, np.ndarray] = {}
        for count in (1, *self.counts):
            shuffled = shuffle_tiles(images, orders(count, sample_ids, self.seed))
            columns |= decisions(model(normalize(shuffled)), labels, str(count))
        return columns


@dataclass(frozen=True)
class Textures:
    """Decisions on images ("image") and on their textures ("texture"); columns as `ShuffledTiles`.

    Attributes:
        origin: How the textures were made, for the record.
        folder: Folder of the pictures.
    """

    origin: str
    folder: Path = field(repr=False)

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, np.ndarray]:
        synthesised = read_pictures(self.folder, sample_ids).to(images.device)
        return {
            **decisions(model(normalize(images)), labels, "image"),
            **decisions(model(normalize(synthesised)), labels, "texture"),
        }


def decisions(logits: Tensor, labels: Tensor, name: str) -> dict[str, np.ndarray]:
    """The columns predicted_NAME and rank_NAME of logits (B, classes)."""
    return {
        f"predicted_{name}": logits.argmax(1).cpu().numpy(),
        f"rank_{name}": rank_of_label(logits, labels).cpu().numpy(),
    }


def accuracy(table: pa.Table, name: str, before: str) -> dict[str, Any]:
    """Accuracies on one kind of images, and how many decisions are those on another kind."""
    ranks = table[f"rank_{name}"].to_numpy()
    predicted = table[f"predicted_{name}"].to_numpy()
    same = predicted == table[f"predicted_{before}"].to_numpy()
    return {
        "images": table.num_rows,
        "top1": mean(ranks < 1),
        "top5": mean(ranks < 5),
        "same": None if name == before else mean(same),
    }


def tile_rows(tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """Rows of the table: each network and number of tiles."""
    rows = []
    for label, table in tables.items():
        side = record_of(table)["image_size"]
        for name in table.column_names:
            if name.startswith("rank_"):
                count = int(name.removeprefix("rank_"))
                order = f"{count}x{count} tiles of {side // count} px" if count > 1 else "as it is"
                row = {"model": label, "count": count, "order": order}
                rows.append(row | accuracy(table, str(count), "1"))
    return rows


def texture_rows(tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """Rows of the table: each network on images and on their textures."""
    return [
        {"model": label, "order": name, "paper": PAPER.get((label, name))}
        | accuracy(table, name, "image")
        for label, table in tables.items()
        for name in ("image", "texture")
    ]


def accuracy_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw accuracy against the number of tiles."""
    figure = Figure(figsize=(8, 3.4), facecolor="white", layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), ("top1", "top5"), strict=True):
        scale_by_two(axes, {row["count"] for row in rows})
        draw_lines(axes, rows, "count", key)
        title = f"{COLUMNS[key][0]} accuracy"
        axes.set(xlabel="tiles in a row (1: as it is)", ylabel=title, ylim=(0, 1.02))
    return figure


def examples_figure(options: ScramblingOptions, ids: np.ndarray, counts: Sequence[int]) -> Figure:
    """Draw a row for each image: its shuffled tiles, and its texture if there is one."""
    data = open_data(options)
    (images, _, sample_ids), _ = data.batches("val")[0, ids]
    sheets = {
        f"{count}x{count}": shuffle_tiles(images, orders(count, sample_ids, options.seed))
        for count in counts
    }
    if options.texture_network:
        network = TextureNetwork.parse(options.texture_network)
        sheets["texture"] = read_pictures(options.out / "textures" / network.label, sample_ids)
    figure = Figure(figsize=(1.2 * len(sheets), 1.2 * len(ids) + 0.3), layout="constrained")
    panels = figure.subplots(len(ids), len(sheets), squeeze=False)
    for column, (title, sheet) in enumerate(sheets.items()):
        panels[0, column].set_title(title if title != "1x1" else "as it is", fontsize=8)
        for axes, picture in zip(panels[:, column], sheet, strict=True):
            axes.imshow(picture.permute(1, 2, 0).numpy())
            axes.set_axis_off()
    return figure
