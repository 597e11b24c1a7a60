"""Shows where the evidence of several BagNets lies, at every pixel of the same images.

Brendel & Bethge (ICLR 2019, figure 2): each row has an image, and for each network the evidence at
every pixel, that of the patch around it. The paper runs the network once for each patch; here all
patches are computed at once (`bagnet.dense_evidence`), with the same result.

The images are --limit random ones (--seed), or those of --samples. Each has a row for its predicted
and one for its true class, or for those of --classes; a row that would repeat another is left out.
The paper does not say how its colours are scaled. Here each map has its own scale, so that weak
evidence is as visible as strong: from -s to s logits, where s is the 99th percentile of its
absolute values, which stands above it.

The mean of a map at every pixel is not the logit. The image is padded so that the pixels at its rim
have a patch too, and these patches, which see the padding, count as much as the others. The logit
is the mean of the native map, whose patches lie inside the image, one every 8 px. The table gives
all three numbers.

Writes `table.*`, `figure.*` (`figure-02.*` and so on for further images), and LABEL.parquet: the
images and maps, from which all is drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.maps import evidence_map, require_bagnet
from bagnet.evidence.pictures.heatmaps import Heatmap, HeatmapRow, heatmap_sheet
from bagnet.evidence.pictures.plots import colour_limit
from bagnet.experiments.explanations.options import HeatmapsOptions
from bagnet.experiments.measuring.classes import choose_class, classes_of
from bagnet.experiments.measuring.measure import measure, open_data
from bagnet.experiments.measuring.parts import record_of
from bagnet.experiments.measuring.results import write_results
from bagnet.model.registry import normalize
from datamodules.plan import permutation

NAME = "heatmaps"
MOST = 32  # images: their pixels, maps and figures are in memory at once
ROWS = 8  # in a figure
SPECIAL = ("predicted", "true")  # words of --classes that are no classes
COLUMNS = {
    "sample": ("sample", "d"),
    "file": ("file", ""),
    "true": ("the image's class", ""),
    "model": ("network", ""),
    "predicted": ("predicted", ""),
    "class": ("evidence for", ""),
    "logit": ("logit", ".3f"),
    "native_mean": ("mean of the native map", ".3f"),
    "dense_mean": ("mean over all pixels", ".3f"),
    "scale": ("s (logits)", ".3g"),
}
LEGEND = (
    "At every pixel, the evidence of the patch around it. s is the 99th percentile of its absolute "
    "values. The mean of such a map is not the logit, because patches at the rim see the padding; "
    "the mean of the native map is."
)

Row = Mapping[str, Any]
"""What `Heatmaps` measured for one image, with arrays for its lists."""


@dataclass(frozen=True)
class Heatmaps:
    """The evidence at every pixel of each image.

    Columns: file; pixels, uint8 (H, W, 3) row by row; predicted, the leading class; and for each of
    the classes: shown, its number; logit; native_mean, the mean of the native map; evidence, the
    map at every pixel, (classes, H, W).

    Attributes:
        samples: Sample ids of the images, for the record.
        classes: The numbers of classes, "predicted" or "true".
        files: The name of each image, by sample id.
    """

    samples: tuple[int, ...]
    classes: tuple[str | int, ...]
    files: Mapping[int, str] = field(repr=False)

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, Sequence[Any]]:
        bagnet = require_bagnet(model)
        inputs = normalize(images)
        logits, native = bagnet(inputs), evidence_map(bagnet, inputs).mean((2, 3))
        predicted = logits.argmax(1).tolist()
        shown: list[list[int]] = []
        for leading, label in zip(predicted, labels.tolist(), strict=True):
            named: dict[str | int, Any] = {"predicted": leading, "true": label}
            shown.append([named.get(each, each) for each in self.classes])
        return {
            "file": [self.files[sample_id] for sample_id in sample_ids.tolist()],
            "pixels": list(images.permute(0, 2, 3, 1).flatten(1).cpu().numpy()),
            "predicted": predicted,
            "shown": shown,
            "logit": [logits[n, classes].tolist() for n, classes in enumerate(shown)],
            "native_mean": [native[n, classes].tolist() for n, classes in enumerate(shown)],
            "evidence": [
                dense_evidence(bagnet, image, classes).float().flatten().cpu().numpy()
                for image, classes in zip(inputs, shown, strict=True)
            ],
        }


def run(options: HeatmapsOptions) -> None:
    """Compute the maps that are missing, and draw all of them.

    Raises:
        ValueError: There is no such image or class, or there are too many images.
    """
    measurement = Heatmaps((), (), {})
    if options.models:
        data = open_data(options)
        samples = choose_samples(options, data.val_manifest.num_samples)
        known = classes_of(data)
        classes = tuple(
            word if word in SPECIAL else choose_class(word, known) for word in options.classes
        )
        files = {sample_id: data.val_manifest.sample(sample_id).key for sample_id in samples}
        measurement = Heatmaps(samples, classes, files)
    # A map takes seconds on a CPU: image by image, the progress is seen.
    options = replace(options, data=replace(options.data, batch_size=1))
    tables = measure(NAME, measurement, options, check=require_bagnet, samples=measurement.samples)
    names = classes_of(next(iter(tables.values()))).distinct_names()
    pictures = list(_pictures({label: _rows(table) for label, table in tables.items()}, names))
    figures = {
        f"figure-{first // ROWS + 1:02d}" if first else "figure": heatmap_sheet(
            [_sheet_row(panels) for panels in pictures[first : first + ROWS]],
            LEGEND,
            "evidence of a patch for the class (logits)",
        )
        for first in range(0, len(pictures), ROWS)
    }
    rows = [panel for panels in pictures for panel in panels]
    write_results(options, NAME, {"table": (rows, COLUMNS)}, figures)


def choose_samples(options: HeatmapsOptions, total: int) -> tuple[int, ...]:
    """The sample ids that the options ask for among `total` images, in ascending order.

    Raises:
        ValueError: There is no such image, or there are too many.
    """
    if options.samples:
        flag, chosen = "--samples", sorted(set(options.samples))
        if chosen[-1] >= total:
            raise ValueError(
                f"--samples {chosen[-1]}: the validation images have the ids 0 to {total - 1}"
            )
    else:
        flag = f"--limit {options.limit}"
        chosen = sorted(permutation(total, options.seed)[: options.limit].tolist())
    if len(chosen) > MOST:
        raise ValueError(
            f"{flag}: these are {len(chosen):,} images, and at most {MOST} can be shown at once; "
            "give fewer, and further ones with another --out"
        )
    return tuple(chosen)


def _rows(table: pa.Table) -> dict[int, Row]:
    """The rows of a network's results by sample id, with images and maps as arrays."""
    side = record_of(table.schema)["image_size"]
    pixels = _array(table, "pixels", side, side, 3)
    evidence = _array(table, "evidence", -1, side, side)
    rows = table.drop_columns(["pixels", "evidence"]).to_pylist()
    return {
        row["sample_id"]: {**row, "pixels": pixels[n], "evidence": evidence[n]}
        for n, row in enumerate(rows)
    }


def _array(table: pa.Table, name: str, *shape: int) -> np.ndarray:
    """A column of lists of the same length, as an array (rows, *shape)."""
    array: np.ndarray = np.stack(table[name].to_numpy()).reshape(table.num_rows, *shape)
    return array


def _pictures(
    networks: Mapping[str, Mapping[int, Row]], names: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """For each row of the figure, a row of the table for each network, with image and map.

    An image that one of the networks could not read is left out.
    """
    for sample in sorted(set.intersection(*(set(rows) for rows in networks.values()))):
        rows = {label: found[sample] for label, found in networks.items()}
        places: dict[tuple[int, ...], int] = {}
        for place, shown in enumerate(zip(*(row["shown"] for row in rows.values()), strict=True)):
            places.setdefault(shown, place)
        for place in places.values():
            yield [_panel(label, row, place, names) for label, row in rows.items()]


def _panel(label: str, row: Row, place: int, names: Sequence[str]) -> dict[str, Any]:
    """A row of the table, with the image and the map."""
    evidence = row["evidence"][place]
    return {
        "sample": row["sample_id"],
        "file": row["file"],
        "true": names[row["label"]],
        "model": label,
        "predicted": names[row["predicted"]],
        "class": names[row["shown"][place]],
        "logit": row["logit"][place],
        "native_mean": row["native_mean"][place],
        "dense_mean": float(evidence.mean(dtype=np.float64)),
        "scale": colour_limit(evidence),
        "pixels": row["pixels"],
        "evidence": evidence,
    }


def _sheet_row(panels: Sequence[Row]) -> HeatmapRow:
    maps = [
        Heatmap(
            title=f"{panel['model']}: {panel['class']}",
            note="predicted, " * (panel["class"] == panel["predicted"])
            + f"logit {panel['logit']:.3f}",
            values=panel["evidence"],
        )
        for panel in panels
    ]
    first, title = panels[0], f"{panels[0]['sample']}: {panels[0]['true']}"
    return HeatmapRow(first["pixels"], title, first["file"], maps)
