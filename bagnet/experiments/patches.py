"""The most informative patches of each class, and what argued in wrong decisions.

Brendel & Bethge, ICLR 2019, figure 3: for each class the patches with the most evidence, in the upper row of images with that
label and in the lower one of images with another. Figure 4: misclassified images with the evidence for the predicted and
for the true class.

The paper does not say how many patches of one image it shows: here it is one for each class, the strongest, as its neighbours
see almost the same pixels. Of the misclassified images those are shown on which the predicted class leads by most.

For each image and class the results hold the strongest patch; for misclassified images also the evidence for both classes. So
the lists are exact, not those of a sample. The pictures take their pixels from the data: without --data.root, only the
tables are drawn again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from bagnet.evidence.maps import evidence_map, require_bagnet
from bagnet.evidence.pictures.sheets import Mistake, PatchRow, mistake_sheet, patch_sheet
from bagnet.evidence.top_patches import OTHERS, OWN, Patch, TopPatches
from bagnet.experiments.measuring.measure import measure, open_data, record_of
from bagnet.experiments.measuring.results import log_to_wandb, save_figure, write_table
from bagnet.experiments.options import PatchesOptions
from bagnet.model.registry import normalize
from datamodules.imagenet import ImageNetDataModule

NAME = "patches"
ROWS = {OWN: "its own images", OTHERS: "other images"}
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
ROWS_AT_ONCE = 256  # images; with 1,000 classes their rows take 2 MB


@dataclass(frozen=True)
class StrongestPatches:
    """The strongest patch of each image for each class, and the maps that explain a mistake."""

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
        is_wrong = (labels != predicted).tolist()
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


@dataclass(frozen=True)
class Geometry:
    """Where the entries of a network's maps lie, without the network."""

    map_width: int
    patch: int
    stride: int

    def box(self, i: int, j: int) -> tuple[int, int, int, int]:
        """As ``BagNet.box``."""
        top, left = self.stride * i, self.stride * j
        return top, left, top + self.patch, left + self.patch


def run(options: PatchesOptions) -> None:
    """Measure, and write for each network LABEL-patches and LABEL-mistakes."""
    folder = options.out / NAME
    for label, table in measure(NAME, StrongestPatches(), options).items():
        names = record_of(table)["class_names"]
        shown = _shown(options.classes, names)
        top, geometry = strongest(table, len(names), options.patches), geometry_of(table)
        data = None if options.data.root is None else _open(options, table)
        rows = [
            row
            for number in shown
            for of in ROWS
            for row in _rows(top.best(number, of), geometry, names, number, of, data)
        ]
        write_table(rows, COLUMNS, folder / f"{label}-patches")
        if data is None:
            continue
        pixels = _Pixels(data)
        save_figure(
            patch_sheet([(names[n], _sheet_rows(top, n, geometry, names, pixels)) for n in shown]),
            folder / f"{label}-patches",
        )
        if wrong := mistakes(table, options.mistakes, geometry, names, pixels):
            save_figure(mistake_sheet(wrong, geometry.box), folder / f"{label}-mistakes")
    if options.wandb:
        log_to_wandb(NAME, folder)


def strongest(table: pa.Table, classes: int, count: int) -> TopPatches:
    """The strongest patches of each class over all images, from the rows of ``StrongestPatches``."""
    top = TopPatches(classes, count)
    width = geometry_of(table).map_width
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        evidence = torch.from_numpy(_matrix(batch["evidence"]).copy())
        places = torch.from_numpy(_matrix(batch["place"]).astype(np.int64))
        labels = torch.tensor(batch["label"].to_pylist())
        ids = torch.tensor(batch["sample_id"].to_pylist())
        top.update_best(evidence, places, width, labels, ids)
    return top


def geometry_of(table: pa.Table) -> Geometry:
    """Of the network that was measured."""
    return Geometry(*(table[name][0].as_py() for name in ("map_width", "patch", "stride")))


def mistakes(
    table: pa.Table, count: int, geometry: Geometry, names: Sequence[str], pixels: _Pixels
) -> list[Mistake]:
    """The misclassified images on which the predicted class leads by most; at most ``count``."""
    lead = table["logit_predicted"].to_numpy() - table["logit_true"].to_numpy()
    is_wrong = table["predicted"].to_numpy() != table["label"].to_numpy()
    order = [int(n) for n in np.argsort(-lead, kind="stable") if is_wrong[n]][:count]
    found = []
    for row in table.take(order).to_pylist():
        evidence = np.array(row["maps"], np.float32).reshape(2, -1, geometry.map_width)
        found.append(
            Mistake(
                image=pixels.image(row["sample_id"]),
                name=pixels.name(row["sample_id"]),
                true=names[row["label"]],
                predicted=names[row["predicted"]],
                logits=(row["logit_true"], row["logit_predicted"]),
                evidence=evidence,
            )
        )
    return found


class _Pixels:
    """Images as the networks saw them, by sample id."""

    def __init__(self, data: ImageNetDataModule) -> None:
        self._manifest, self._batches = data.val_manifest, data.batches("val")

    def image(self, sample_id: int) -> np.ndarray:
        """uint8 (H, W, 3)."""
        (images, _, _), _ = self._batches[0, np.array([sample_id])]
        return images[0].permute(1, 2, 0).numpy()

    def name(self, sample_id: int) -> str:
        return self._manifest.sample(sample_id).key


def _open(options: PatchesOptions, table: pa.Table) -> ImageNetDataModule:
    data = open_data(options)
    record = record_of(table)
    sizes = {"image_size": options.data.image_size, "resize_size": options.data.resize_size}
    for name, value in {"data": data.val_manifest.digest, **sizes}.items():
        if record[name] != value:
            raise ValueError(
                f"the results are of images with {name} {record[name]}, and these have {value}: the pictures would "
                "not show what was measured"
            )
    return data


def _shown(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    if not wanted:
        return list(range(min(8, len(names))))
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(
            f"--classes {unknown[0]}: there is no such class; names are such as {', '.join(names[:3])}"
        )
    return [names.index(name) for name in wanted]


def _rows(
    patches: Sequence[Patch],
    geometry: Geometry,
    names: Sequence[str],
    number: int,
    of: int,
    data: ImageNetDataModule | None,
) -> list[dict[str, Any]]:
    rows = []
    for rank, patch in enumerate(patches, 1):
        top, left, _, _ = geometry.box(*patch.entry)
        rows.append(
            {
                "class": names[number],
                "of": ROWS[of],
                "rank": rank,
                "evidence": patch.evidence,
                "label": names[patch.label],
                "file": data and data.val_manifest.sample(patch.sample_id).key,
                "top": top,
                "left": left,
            }
        )
    return rows


def _sheet_rows(
    top: TopPatches, number: int, geometry: Geometry, names: Sequence[str], pixels: _Pixels
) -> list[PatchRow]:
    rows = []
    for of, title in ROWS.items():
        patches, captions = [], []
        for patch in top.best(number, of):
            above, left, below, right = geometry.box(*patch.entry)
            patches.append(pixels.image(patch.sample_id)[above:below, left:right])
            of_class = "" if of == OWN else f" {names[patch.label][:11]}"
            captions.append(f"{patch.evidence:.1f}{of_class}")
        rows.append(PatchRow(title, patches, captions))
    return rows


def _matrix(column: pa.Array) -> np.ndarray:
    """A column of lists of equal length, (rows, length)."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
