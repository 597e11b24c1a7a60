"""Measures accuracy on images whose parts are kept but whose order is lost.

Brendel & Bethge (ICLR 2019, under "image scrambling"): a bag of local features does not know where
its parts are, so scrambling them must not change its decision. For networks whose receptive fields
overlap there is no exact way to do this; textures synthesised from the Gram matrices of a VGG
(Gatys et al. 2015) come close. VGG-16 has a top-5 accuracy of 90.1% on images and of 79.4% on their
textures.

The order is lost in two ways:

* Tiles: the image is cut into n x n tiles, which are shuffled by --seed and the sample's number so
  that none stays in its place. n must divide the image's side, so no pixel is lost or resampled.
  This is not in the paper. A BagNet whose patches are smaller than a tile is almost immune, because
  only the patches across the seams change.
* Textures, with --texture_network vgg16=FILE: synthesised from noise, see decisions/textures.py.
  The paper says that features of a VGG are used, but not which, nor how. The defaults (conv1_1 and
  pool1 to pool4 with equal weights, Gaussian noise, L-BFGS) are those of Gatys et al., whose own
  code has average pooling, a VGG-19 with normalised weights and 2,000 steps; here it is the VGG's
  own max pooling, and 500 steps. ResNets and DenseNets are tested with the textures of a VGG: their
  layers add up or collect those before them, and the paper says nothing of textures made from them.
  Textures that exist are not made again.

500 steps of VGG-16 take 14.6 to 18.3 tera multiply-adds for an image of 224x224 pixels: --limit
sets the number of images. "Same class" is the share of images for which the network chooses the
same class as for the unchanged image.

Writes `scrambling/table.*` and `figure.*`, examples.png of some images, `textures/LABEL/*.png`, and
`texturised/table.*`.
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

from bagnet.experiments.decisions.options import ScramblingOptions
from bagnet.experiments.decisions.textures import Synthesis, TextureNetwork, read_pictures
from bagnet.experiments.decisions.tiles import orders, shuffle_tiles
from bagnet.experiments.measuring.colours import network_colours
from bagnet.experiments.measuring.figures import Colours, Rows, image_figure, line_figure
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.models import sizes_of
from bagnet.experiments.measuring.parts import is_imagenet, record_of
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import share
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
    """Measure what is missing, and draw all results.

    Raises:
        ValueError: The images cannot be cut into so many equal tiles.
    """
    side = sizes_of(options).image_size
    divisors = [n for n in range(2, side + 1) if side % n == 0]
    tiles = options.tiles or [n for n in TILES if n in divisors] or TILES
    for count in tiles:
        if count not in divisors:
            raise ValueError(
                f"--tiles {count} does not cut images of {side} px into equal tiles: give one of "
                f"{', '.join(map(str, divisors))}, or another --data.image_size"
            )
    if options.models and options.texture_network:
        TextureNetwork.parse(options.texture_network).check(options.layers)
    tables = measure("scrambling", ShuffledTiles(tuple(tiles), options.seed), options)
    first = next(iter(tables.values()))
    rows = accuracy_rows(tables)
    for row in rows:
        count = row["count"] = int(row["order"])
        tile = record_of(first.schema)["image_size"] // count
        row["order"] = f"{count}x{count} tiles of {tile} px" if count > 1 else "as it is"
    figures = {"figure": _figure(rows, first, network_colours(options.out, tables))}
    if options.texture_network or (options.out / "texturised").is_dir():
        texturised = accuracy_rows(_texturised(options))
        columns = dict(COLUMNS)
        if is_imagenet(first):
            columns["paper"] = ("paper's top-5", ".1%")
            for row in texturised:
                row["paper"] = PAPER.get((row["model"], row["order"]))
        write_results(options, "texturised", {"table": (texturised, columns)}, {})
    if options.models:  # so the options are those of the results
        ids = first["sample_id"].to_numpy()[:SHOWN]
        counts = sorted({row["count"] for row in rows})
        figures["examples"] = examples_figure(options, ids, counts)
    write_results(options, "scrambling", {"table": (rows, COLUMNS)}, figures)


def _figure(rows: Rows, table: pa.Table, colours: Colours) -> Figure:
    """Both accuracies by the number of tiles."""
    side, classes = (record_of(table.schema)[key] for key in ("image_size", "class_names"))
    counts = sorted({row["count"] for row in rows})
    ticks = {n: f"{n}x{n}\n{side // n} px" if n > 1 else "as it is" for n in counts}
    return line_figure(
        rows,
        "count",
        {"top1": "top-1 accuracy, %", "top5": "top-5 accuracy, %"},
        "tiles",
        colours,
        ticks=ticks,
        ylim=(0, 102),
        percent=True,
        chance={"top1": 1 / len(classes), "top5": min(5, len(classes)) / len(classes)},
    )


def _texturised(options: ScramblingOptions) -> dict[str, pa.Table]:
    """Synthesise and measure what is missing; without a texture network, read existing results."""
    if not options.models or options.texture_network is None:
        return measure("texturised", Textures("", Path()), options, models=[])
    network = TextureNetwork.parse(options.texture_network)
    pictures = options.out / "textures" / network.label
    synthesis = Synthesis(pictures, tuple(options.layers), options.steps, options.seed)
    made = record_of(measure("textures", synthesis, options, [network])[network.label].schema)
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
    order: str = "derangement"  # how the tiles are drawn, for the record

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
        textures = read_pictures(self.folder, sample_ids).to(images.device)
        columns = decisions(model(normalize(images)), labels, "image")
        return columns | decisions(model(normalize(textures)), labels, "texture")


def decisions(logits: Tensor, labels: Tensor, name: str) -> dict[str, np.ndarray]:
    """The columns predicted_NAME and rank_NAME of logits (B, classes)."""
    return {
        f"predicted_{name}": logits.argmax(1).cpu().numpy(),
        f"rank_{name}": rank_of_label(logits, labels).cpu().numpy(),
    }


def accuracy_rows(tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """Accuracies of each network on each kind of images, the first of which is unchanged images."""
    rows = []
    for label, table in tables.items():
        kinds = [n.removeprefix("rank_") for n in table.column_names if n.startswith("rank_")]
        unchanged = table[f"predicted_{kinds[0]}"].to_numpy()
        for kind in kinds:
            ranks = table[f"rank_{kind}"].to_numpy()
            same = table[f"predicted_{kind}"].to_numpy() == unchanged
            rows.append(
                {
                    "model": label,
                    "order": kind,
                    "images": len(ranks),
                    "top1": share(ranks < 1),
                    "top5": share(ranks < 5),
                    "same": None if kind == kinds[0] else share(same),
                }
            )
    return rows


def examples_figure(options: ScramblingOptions, ids: np.ndarray, counts: Sequence[int]) -> Figure:
    """Draw a row for each image: its shuffled tiles, and its texture if there is one."""
    data = open_data(options)
    (images, _, sample_ids), _ = data.batches("val")[0, ids]
    sheets = {
        f"{count}x{count}" if count > 1 else "as it is": shuffle_tiles(
            images, orders(count, sample_ids, options.seed)
        )
        for count in counts
    }
    if options.texture_network:
        network = TextureNetwork.parse(options.texture_network)
        sheets["texture"] = read_pictures(options.out / "textures" / network.label, sample_ids)
    return image_figure(sheets)
