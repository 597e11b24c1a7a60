"""Compares the evidence of BagNets with masks of what should decide, such as lesions.

Sparse BagNets (Donteu et al., MIDL 2023; --model.sparsity) are meant for images in which a few
small places decide. This tells whether their evidence lies there, beside that of other BagNets.

--masks is a folder that mirrors the folder of the validation images, or has a file for each key:
the mask of val/ill/003.jpg is ill/003.png or ill_003.png. What is not zero belongs to the mask. A
mask is resized and cropped as its image is, to the nearest pixel. Images without a mask are left
out, and so are those of which nothing is left in the crop.

Two maps of the evidence for the image's class are compared: that of the patch around every pixel
("dense", `bagnet.dense_evidence`), and each patch's vote spread over its pixels ("pixel",
`bagnet.pixel_evidence`, whose sum is the logit). For each:

* Pointing game (Zhang et al., IJCV 2018; github.com/facebookresearch/TorchRay): the share of images
  whose strongest pixel is less than 15 px from the mask. Equal maxima must all be.
* Average precision of the pixels, ordered by their evidence: the area under the steps of precision
  over recall, for each image, then the mean.
* IoU of the mask and as many pixels with the strongest evidence. So no threshold is chosen; it is
  r / (2 - r) for the relevance rank accuracy r of Arras et al. (Information Fusion 2022). Pixels
  that tie at the end count in proportion.

The last row has what a random order of the pixels gives. Two figures tell how sparse the votes for
the class are, over the network's own patches: the share of them below 0.5 logits either way, and
how much of |evidence| is in the strongest tenth of the patches.

Writes `table.*`, `figure.*`, `images.*` (some images, with the mask outlined in the dense maps),
and LABEL.parquet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from matplotlib.figure import Figure
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.maps import evidence_map, pixel_evidence, require_bagnet
from bagnet.evidence.pictures.heatmaps import Heatmap, HeatmapRow, heatmap_sheet
from bagnet.experiments.explanations.masks import Masks, find_masks
from bagnet.experiments.explanations.options import LocalizationOptions
from bagnet.experiments.explanations.scores import average_precision, overlap, points, sparsity
from bagnet.experiments.measuring.colours import network_colours
from bagnet.experiments.measuring.figures import line_figure
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.parts import record_of
from bagnet.experiments.measuring.results import write_results
from bagnet.experiments.measuring.statistics import FEWEST, mean, share
from bagnet.model.registry import normalize
from bagnet.training.metrics import rank_of_label

NAME = "localization"
TOLERANCE = 15  # px
SHOWN = 6  # images in the picture
MAPS = ("dense", "pixel")
SCORES = {"points": "pointing game", "precision": "average precision", "iou": "IoU"}
LISTS = ("pixels", "mask", "evidence")
COLUMNS = {
    "model": ("network", ""),
    "map": ("map", ""),
    "images": ("images", ",d"),
    "top1": ("top-1", ".1%"),
    **{key: (title, ".1%") for key, title in SCORES.items()},
    "small": ("votes below 0.5", ".1%"),
    "strongest": ("abs(evidence) in the top tenth", ".1%"),
}
LEGEND = (
    "Outlined: the mask. Colours: at every pixel, the evidence of the patch around it for the "
    "image's class. s is the 99th percentile of its absolute values."
)


@dataclass(frozen=True)
class Localization:
    """How the evidence for the true class agrees with masks.

    Columns: file, the mask's; rank, that of the true class, 0 is right; area, the mask's share of
    the pixels; near, that of all pixels at which pointing is right; small and strongest, how sparse
    the votes are; for each map, points_MAP, precision_MAP and iou_MAP. For images in the picture,
    while others have empty lists: pixels, uint8 (H, W, 3) row by row; mask, (H, W); evidence, the
    dense map, (H, W).

    Attributes:
        masks: A digest of all masks, for the record.
        shown: Sample ids of the images in the picture.
        found: The masks.
    """

    masks: str = ""
    shown: tuple[int, ...] = ()
    found: Masks | None = field(default=None, repr=False)

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, Sequence[Any]]:
        assert self.found is not None, "without masks, results are only drawn"
        bagnet = require_bagnet(model)
        inputs = normalize(images)
        ranks, votes = rank_of_label(bagnet(inputs), labels), evidence_map(bagnet, inputs)
        rows = []
        for n, sample_id in enumerate(sample_ids.tolist()):
            label = int(labels[n])
            mask = self.found.read(sample_id)
            maps = {
                "dense": dense_evidence(bagnet, inputs[n], label).float().cpu().numpy(),
                "pixel": pixel_evidence(bagnet, inputs[n], label).float().cpu().numpy(),
            }
            near = distance_transform_edt(~mask) < TOLERANCE
            row: dict[str, Any] = {"rank": int(ranks[n]), "area": mask.mean()}
            row |= {"near": near.mean(), "file": self.found.files[sample_id].name}
            row["small"], row["strongest"] = sparsity(votes[n, label].cpu().numpy())
            for name, evidence in maps.items():
                row[f"points_{name}"] = points(evidence, near)
                row[f"precision_{name}"] = average_precision(evidence, mask)
                row[f"iou_{name}"] = overlap(evidence, mask)
            pixels = images[n].permute(1, 2, 0).cpu().numpy()
            for name, picture in zip(LISTS, (pixels, mask, maps["dense"]), strict=True):
                row[name] = picture.ravel()[: picture.size * (sample_id in self.shown)]
            rows.append(row)
        return {name: [row[name] for row in rows] for name in rows[0]}


def run(options: LocalizationOptions) -> None:
    """Measure what is missing, and draw everything that exists.

    Raises:
        ValueError: There are no masks, or too few, or they do not fit the images.
    """
    measurement, samples = Localization(), None
    if options.models:
        measurement, samples = prepare(options)
    # A map takes seconds on a CPU: image by image, the progress is seen.
    options = replace(options, data=replace(options.data, batch_size=1))
    tables = measure(NAME, measurement, options, check=require_bagnet, samples=samples)
    rows = [row for label, table in tables.items() for row in _rows(label, table)]
    chance = _chance(next(iter(tables.values())))
    figure = line_figure(
        rows,
        "map",
        {key: f"{title}, %" for key, title in SCORES.items()},
        "map",
        network_colours(options.out, tables),
        ticks={name: name for name in MAPS},
        ylim=(0, 105),
        percent=True,
        chance=chance,
    )
    rows.append({"model": "random order", "map": "", **chance})
    write_results(
        options, NAME, {"table": (rows, COLUMNS)}, {"figure": figure, "images": _picture(tables)}
    )


def prepare(options: LocalizationOptions) -> tuple[Localization, list[int]]:
    """Choose the images, and say which are left out.

    Raises:
        ValueError: As `run`.
    """
    if options.masks is None:
        raise ValueError("--models needs the masks to compare with: add --masks FOLDER")
    data = open_data(options)
    masks = find_masks(options.masks, data)
    known = sorted(masks.files)
    total = data.val_manifest.num_samples
    left_out = total - len(known) - masks.empty
    print(
        f"{len(known):,} of {total:,} validation images have a mask; left out: {left_out:,} without"
        f" one, and {masks.empty:,} with nothing of it in the crop"
    )
    if masks.unused:
        print(f"{options.masks} has {masks.unused:,} files that are no masks of these images")
    samples = _spread(known, options.limit or len(known))
    if len(samples) < FEWEST:
        raise ValueError(
            f"{len(samples)} images with a mask are too few for a statistic, which needs {FEWEST}"
        )
    shown = tuple(_spread(samples, SHOWN))
    return Localization(masks.digest, shown, masks), samples


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """So many of the numbers, evenly spread over them."""
    count = min(count, len(numbers))
    return [numbers[n * len(numbers) // count] for n in range(count)]


def _rows(label: str, table: pa.Table) -> Iterator[dict[str, Any]]:
    """A row of the table for each map."""
    values = {
        name: table[name].to_numpy(zero_copy_only=False)
        for name in table.column_names
        if name not in LISTS
    }
    for name in MAPS:
        yield {
            "model": label,
            "map": name,
            "images": len(table),
            "top1": share(values["rank"] < 1),
            "points": share(values[f"points_{name}"]),
            "precision": mean(values[f"precision_{name}"]),
            "iou": mean(values[f"iou_{name}"]),
            "small": mean(values["small"]),
            "strongest": mean(values["strongest"]),
        }


def _chance(table: pa.Table) -> dict[str, float]:
    """What a random order of the pixels gives, for each score."""
    area, near = (table[name].to_numpy() for name in ("area", "near"))
    return {
        "points": float(near.mean()),
        "precision": float(area.mean()),
        "iou": float((area / (2 - area)).mean()),
    }


def _picture(tables: Mapping[str, pa.Table]) -> Figure:
    """Some images with their masks, beside the dense maps of all networks."""
    record = record_of(next(iter(tables.values())).schema)
    side, names = record["image_size"], record["class_names"]
    shown = {
        label: table.filter(pc.list_value_length(pc.field("mask")) > 0).to_pylist()
        for label, table in tables.items()
    }
    sheet = []
    for rows in zip(*shown.values(), strict=True):
        maps = [
            Heatmap(
                title=label,
                note=f"AP {row['precision_dense']:.1%}",
                values=np.reshape(np.array(row["evidence"], np.float32), (side, side)),
            )
            for label, row in zip(shown, rows, strict=True)
        ]
        image = np.array(rows[0]["pixels"], np.uint8).reshape(side, side, 3)
        title = f"{rows[0]['sample_id']}: {names[rows[0]['label']]}"
        mask = np.reshape(rows[0]["mask"], (side, side))
        sheet.append(HeatmapRow(image, title, rows[0]["file"], maps, mask))
    return heatmap_sheet(sheet, LEGEND, "evidence of a patch for the class (logits)")
