"""Shows the most informative patches of each class, and what led to wrong decisions.

Brendel & Bethge, ICLR 2019. Figure 3 shows the patches with the most evidence for each class: in
the upper row from images with that label, in the lower row from other images. Figure 4 shows
misclassified images with the evidence for the predicted and for the true class.

The paper does not say how many patches of one image it shows. Here it is only the strongest for
each class, because its neighbours see almost the same pixels. The misclassified images shown are
those on which the predicted class leads by most.

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
from pyarrow.compute import list_value_length
from torch import Tensor, nn

from bagnet.evidence.maps import evidence_map, require_bagnet
from bagnet.evidence.pictures.sheets import Mistake, PatchRow, mistake_sheet, patch_sheet
from bagnet.evidence.top_patches import OTHERS, OWN, TopPatches
from bagnet.experiments.measuring.measure import measure, open_data, record_of
from bagnet.experiments.measuring.results import log_to_wandb, save_figure, write_table
from bagnet.experiments.options import PatchesOptions
from bagnet.model.registry import normalize
from bagnet.training.metrics import rank_of_label
from datamodules.common.batch import Box
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


@dataclass(frozen=True)
class Geometry:
    """The places of a network's map entries, without the network."""

    map_width: int
    patch: int
    stride: int

    def box(self, i: int, j: int) -> Box:
        """The pixels of entry (i, j), as `BagNet.box`."""
        top, left = self.stride * i, self.stride * j
        return top, left, top + self.patch, left + self.patch


def run(options: PatchesOptions) -> None:
    """Measure, and write LABEL-patches and LABEL-mistakes for each network."""
    folder = options.out / NAME
    for label, table in measure(NAME, StrongestPatches(), options).items():
        names = record_of(table)["class_names"]
        shown = _shown(options.classes, names)
        top, geometry = strongest(table, len(names), options.patches), geometry_of(table)
        data = None if options.data.root is None else _open(options, table)
        rows = [row for number in shown for row in _rows(top, number, geometry, names, data)]
        write_table(rows, COLUMNS, folder / f"{label}-patches")
        if data is None:
            continue
        pixels = _Pixels(data)
        blocks = [(names[n], _sheet_rows(top, n, geometry, names, pixels)) for n in shown]
        save_figure(patch_sheet(blocks), folder / f"{label}-patches")
        if wrong := mistakes(table, options.mistakes, geometry, names, pixels):
            save_figure(mistake_sheet(wrong, geometry.box), folder / f"{label}-mistakes")
    if options.wandb:
        log_to_wandb(NAME, folder)


def strongest(table: pa.Table, classes: int, count: int) -> TopPatches:
    """The strongest patches of each class over all images, from a table of `StrongestPatches`."""
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
    """The geometry of the network that was measured."""
    return Geometry(*(table[name][0].as_py() for name in ("map_width", "patch", "stride")))


def mistakes(
    table: pa.Table, count: int, geometry: Geometry, names: Sequence[str], pixels: _Pixels
) -> list[Mistake]:
    """The misclassified images on which the predicted class leads by most; at most `count`."""
    lead = table["logit_predicted"].to_numpy() - table["logit_true"].to_numpy()
    is_wrong = list_value_length(table["maps"]).to_numpy() > 0
    order = [int(n) for n in np.argsort(-lead, kind="stable") if is_wrong[n]][:count]
    found = []
    for row in table.take(order).to_pylist():
        found.append(
            Mistake(
                image=pixels.image(row["sample_id"]),
                name=pixels.name(row["sample_id"]),
                true=names[row["label"]],
                predicted=names[row["predicted"]],
                logits=(row["logit_true"], row["logit_predicted"]),
                evidence=np.array(row["maps"], np.float32).reshape(2, -1, geometry.map_width),
            )
        )
    return found


class _Pixels:
    """Images as the networks see them, by sample id."""

    def __init__(self, data: ImageNetDataModule) -> None:
        self._manifest, self._batches = data.val_manifest, data.batches("val")

    def image(self, sample_id: int) -> np.ndarray:
        """RGB pixels, uint8 (H, W, 3)."""
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
                f"the results were measured with {name} {record[name]}, and these images have "
                f"{value}: give the same data and sizes, or another --out"
            )
    return data


def _shown(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    if not wanted:
        return list(range(min(8, len(names))))
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(
            f"--classes {unknown[0]}: there is no such class; names look like "
            f"{', '.join(names[:3])}"
        )
    return [names.index(name) for name in wanted]


def _rows(
    top: TopPatches,
    number: int,
    geometry: Geometry,
    names: Sequence[str],
    data: ImageNetDataModule | None,
) -> list[dict[str, Any]]:
    """The table's rows of one class."""
    rows = []
    for of, title in ROWS.items():
        for rank, patch in enumerate(top.best(number, of), 1):
            above, left, _, _ = geometry.box(*patch.entry)
            rows.append(
                {
                    "class": names[number],
                    "of": title,
                    "rank": rank,
                    "evidence": patch.evidence,
                    "label": names[patch.label],
                    "file": data and data.val_manifest.sample(patch.sample_id).key,
                    "top": above,
                    "left": left,
                }
            )
    return rows


def _sheet_rows(
    top: TopPatches, number: int, geometry: Geometry, names: Sequence[str], pixels: _Pixels
) -> list[PatchRow]:
    """The picture's rows of one class."""
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
    """A column of lists of equal length as an array (rows, length)."""
    values: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)
