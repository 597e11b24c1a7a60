"""Shows the most informative patches of each class, and what led to wrong decisions.

Brendel & Bethge, ICLR 2019. Figure 3 shows the patches with the most evidence for each class: in
the upper row from images with that label, in the lower row from other images. Figure 4 shows
misclassified images with the evidence for the predicted and for the true class.

The paper does not say how many patches of one image it shows. Here it is only the strongest for
each class, because its neighbours see almost the same pixels. The misclassified images shown are
those on which the predicted class leads by most. With --other vgg16, they are those that this
network misclassifies, too, as in the paper, with the probabilities that both give to their classes;
they are read from what `accuracy` has measured.

The results hold the strongest patch for each image and class, and for misclassified images also the
evidence for both classes. So the lists are exact, not those of a sample. The pictures take their
pixels from the data: without --data.root, only the tables are drawn again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow.compute import list_element
from torch import Tensor, nn

from bagnet.evidence.maps import evidence_map, require_bagnet
from bagnet.evidence.pictures.sheets import mistake_sheet, patch_sheet
from bagnet.experiments.explanations.mistakes import errors_of_both, mistakes
from bagnet.experiments.explanations.options import PatchesOptions
from bagnet.experiments.measuring.classes import choose_classes, classes_of
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.pixels import box_of, open_measured, read_pixels
from bagnet.experiments.measuring.results import write_results
from bagnet.model.registry import normalize
from bagnet.training.metrics import rank_of_label
from datamodules.loading.batches import Batches

NAME = "patches"
OF = {True: "its own images", False: "other images"}
COLUMNS = {
    "class": ("class", ""),
    "of": ("of", ""),
    "rank": ("rank", "d"),
    "evidence": ("evidence (logits)", ".2f"),
    "label": ("the image's class", ""),
    "file": ("file", ""),
    "top": ("top (px)", "d"),
    "left": ("left (px)", "d"),
}


@dataclass(frozen=True)
class StrongestPatches:
    """The strongest patch of each image for each class, and the maps that explain a mistake.

    Columns: predicted, the leading class; logit_true and logit_predicted; evidence and place, those
    of the strongest patch for each class (places count row by row); maps, the evidence for the true
    and for the predicted class if the image is misclassified, else empty; map_width, patch, stride.
    """

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, Sequence[Any] | np.ndarray]:
        bagnet = require_bagnet(model)
        evidence = evidence_map(bagnet, normalize(images)).float()
        logits = evidence.mean((2, 3))
        predicted = logits.argmax(1)
        evidence_of_best, places = evidence.flatten(2).max(2)
        rows = torch.arange(len(images), device=labels.device)
        both = torch.stack((labels, predicted), 1)
        maps = evidence[rows[:, None], both].flatten(1).cpu().numpy()
        is_wrong = (rank_of_label(logits, labels) > 0).tolist()
        count = len(images)
        return {
            "predicted": predicted.cpu().numpy(),
            "logit_true": logits[rows, labels].cpu().numpy(),
            "logit_predicted": logits[rows, predicted].cpu().numpy(),
            "evidence": evidence_of_best.cpu().numpy(),
            "place": places.int().cpu().numpy(),
            "maps": [m.tolist() if w else [] for m, w in zip(maps, is_wrong, strict=True)],
            "map_width": np.full(count, evidence.shape[3]),
            "patch": np.full(count, bagnet.receptive_field),
            "stride": np.full(count, bagnet.stride),
        }


def run(options: PatchesOptions) -> None:
    """Measure, and write LABEL-patches and LABEL-mistakes for each network.

    Raises:
        ValueError: A class does not exist, or the data is not what was measured.
    """
    if options.models:  # before anything is measured
        choose_classes(options.classes, classes_of(open_data(options)))
    tables, figures = {}, {}
    measured = measure(NAME, StrongestPatches(), options, check=require_bagnet)
    for label, table in measured.items():
        names = classes_of(table).distinct_names()
        chosen = choose_classes(options.classes, classes_of(table))
        data = None if options.data.root is None else open_measured(options, table)
        rows = [
            row
            for number in chosen
            for own in (True, False)
            for row in strongest(table, names, number, own, options.patches)
        ]
        if data is not None:
            for row in rows:
                row["file"] = data.val_manifest.sample(row["sample_id"]).key
            blocks = _blocks(rows, [names[number] for number in chosen], data.batches("val"))
            figures[f"{label}-patches"] = patch_sheet(blocks)
            notes = errors_of_both(label, table, options) if options.other else None
            if wrong := mistakes(table, options.mistakes, names, data, notes):
                figures[f"{label}-mistakes"] = mistake_sheet(wrong, box_of(table))
        tables[f"{label}-patches"] = (rows, COLUMNS)
    write_results(options, NAME, tables, figures)


def strongest(
    table: pa.Table, names: Sequence[str], number: int, own: bool, count: int
) -> list[dict[str, Any]]:
    """Find the strongest patches for a class, at most one of each image, the strongest first.

    Among patches with equal evidence, the lower sample id comes first.

    Args:
        table: Results of `StrongestPatches`.
        names: Names of all classes.
        number: The class.
        own: Whether to look at images with this label, or at all others.
        count: The most patches to find.

    Returns:
        Rows of the table of patches, with two entries more: sample_id, and box, the pixels.
    """
    box = box_of(table)
    chosen = np.flatnonzero((table["label"].to_numpy() == number) == own)
    evidence = list_element(table["evidence"], number).to_numpy()
    order = chosen[np.argsort(-evidence[chosen], kind="stable")][:count]
    rows = []
    for rank, row in enumerate(table.take(order).to_pylist(), 1):
        pixels = box(*divmod(row["place"][number], row["map_width"]))
        rows.append(
            {
                "class": names[number],
                "of": OF[own],
                "rank": rank,
                "evidence": row["evidence"][number],
                "label": names[row["label"]],
                "top": pixels[0],
                "left": pixels[1],
                "sample_id": row["sample_id"],
                "box": pixels,
            }
        )
    return rows


def _blocks(
    rows: Sequence[Mapping[str, Any]], classes: Sequence[str], batches: Batches
) -> dict[str, dict[str, list[tuple[np.ndarray, str]]]]:
    """What `patch_sheet` shows for the rows of the table."""
    blocks: dict[str, dict[str, list[tuple[np.ndarray, str]]]] = {
        name: {title: [] for title in OF.values()} for name in classes
    }
    for row in rows:
        top, left, bottom, right = row["box"]
        patch = read_pixels(batches, row["sample_id"])[top:bottom, left:right]
        of_class = "" if row["label"] == row["class"] else f"\n{row['label']}"
        blocks[row["class"]][row["of"]].append((patch, f"{row['evidence']:.1f}{of_class}"))
    return blocks
