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
from pyarrow.compute import list_element, list_value_length
from torch import Tensor, nn

from bagnet.evidence.maps import evidence_map, require_bagnet
from bagnet.evidence.pictures.sheets import Mistake, mistake_sheet, patch_sheet
from bagnet.experiments.decisions import accuracy
from bagnet.experiments.explanations.options import PatchesOptions
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.parts import read_file, record_of
from bagnet.experiments.measuring.pixels import box_of, open_measured, read_pixels
from bagnet.experiments.measuring.results import write_results
from bagnet.model.registry import normalize
from bagnet.training.metrics import rank_of_label
from datamodules.imagenet import ImageNetDataModule
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
        _check_classes(options, open_data(options).class_names)
    tables, figures = {}, {}
    measured = measure(NAME, StrongestPatches(), options, check=require_bagnet)
    for label, table in measured.items():
        names = record_of(table.schema)["class_names"]
        _check_classes(options, names)
        data = None if options.data.root is None else open_measured(options, table)
        classes = options.classes or names[:8]
        rows = [
            row
            for name in classes
            for own in (True, False)
            for row in strongest(table, names, name, own, options.patches)
        ]
        if data is not None:
            for row in rows:
                row["file"] = data.val_manifest.sample(row["sample_id"]).key
            figures[f"{label}-patches"] = patch_sheet(_blocks(rows, classes, data.batches("val")))
            notes = _errors_of_both(label, table, options) if options.other else None
            if wrong := mistakes(table, options.mistakes, names, data, notes):
                figures[f"{label}-mistakes"] = mistake_sheet(wrong, box_of(table))
        tables[f"{label}-patches"] = (rows, COLUMNS)
    write_results(options, NAME, tables, figures)


def _check_classes(options: PatchesOptions, names: Sequence[str]) -> None:
    for name in options.classes:
        if name not in names:
            known = ", ".join(names[:3])
            raise ValueError(f"--classes {name}: there is no such class; names look like {known}")


def strongest(
    table: pa.Table, names: Sequence[str], name: str, own: bool, count: int
) -> list[dict[str, Any]]:
    """Find the strongest patches for a class, at most one of each image, the strongest first.

    Among patches with equal evidence, the lower sample id comes first.

    Args:
        table: Results of `StrongestPatches`.
        names: Names of all classes.
        name: The class.
        own: Whether to look at images with this label, or at all others.
        count: The most patches to find.

    Returns:
        Rows of the table of patches, with two entries more: sample_id, and box, the pixels.
    """
    number, box = names.index(name), box_of(table)
    chosen = np.flatnonzero((table["label"].to_numpy() == number) == own)
    evidence = list_element(table["evidence"], number).to_numpy()
    order = chosen[np.argsort(-evidence[chosen], kind="stable")][:count]
    rows = []
    for rank, row in enumerate(table.take(order).to_pylist(), 1):
        pixels = box(*divmod(row["place"][number], row["map_width"]))
        rows.append(
            {
                "class": name,
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


def mistakes(
    table: pa.Table,
    count: int,
    names: Sequence[str],
    data: ImageNetDataModule,
    notes: Mapping[int, str] | None = None,
) -> list[Mistake]:
    """The misclassified images on which the predicted class leads by most.

    Args:
        table: Results of `StrongestPatches`.
        count: The most images to find.
        names: Names of all classes.
        data: The data.
        notes: What to say of images, by sample id, if only these are looked for.
    """
    batches = data.batches("val")
    lead = table["logit_predicted"].to_numpy() - table["logit_true"].to_numpy()
    is_wrong = list_value_length(table["maps"]).to_numpy() > 0
    if notes is not None:
        is_wrong &= np.isin(table["sample_id"].to_numpy(), list(notes))
    order = [int(n) for n in np.argsort(-lead, kind="stable") if is_wrong[n]][:count]
    return [
        Mistake(
            image=read_pixels(batches, row["sample_id"]),
            name=data.val_manifest.sample(row["sample_id"]).key,
            true=names[row["label"]],
            predicted=names[row["predicted"]],
            logits=(row["logit_true"], row["logit_predicted"]),
            evidence=np.array(row["maps"], np.float32).reshape(2, -1, row["map_width"]),
            note="" if notes is None else notes[row["sample_id"]],
        )
        for row in table.take(order).to_pylist()
    ]


def _errors_of_both(label: str, table: pa.Table, options: PatchesOptions) -> dict[int, str]:
    """What two networks say of the images that both misclassify, by sample id.

    Raises:
        ValueError: `accuracy` has not measured both, or on other images.
    """
    folder, names = options.out / accuracy.NAME, record_of(table.schema)["class_names"]
    wrong: list[dict[int, str]] = []
    for network in (label, str(options.other)):
        file = folder / f"{network}.parquet"
        if not file.is_file():
            raise ValueError(
                f"--other {options.other} needs the accuracies of it and of {label}, and there is "
                f"no {file}: run `accuracy` with both into the same --out first"
            )
        rows = read_file(file)
        for name in ("data", "image_size", "resize_size"):
            if record_of(rows.schema)[name] != record_of(table.schema)[name]:
                raise ValueError(
                    f"{file} was measured with other images ({name}): measure `accuracy` again, "
                    "with the data and sizes of `patches`"
                )
        wrong.append(
            {
                row["sample_id"]: f"{network} says {names[row['predicted']]} "
                f"({row['confidence']:.0%}; {names[row['label']]} {row['probability']:.0%})"
                for row in rows.to_pylist()
                if row["rank"] > 0
            }
        )
    first, second = wrong
    return {
        number: f"{text}; {second[number]}" for number, text in first.items() if number in second
    }


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
