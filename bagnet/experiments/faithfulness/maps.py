"""What methods find important in some images, as pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bagnet.evidence.pictures.heatmaps import Heatmap, HeatmapRow, heatmap_sheet
from bagnet.experiments.measuring.measure import open_data
from bagnet.experiments.measuring.models import ModelFile
from bagnet.experiments.options import MeasureOptions
from bagnet.model.registry import normalize

LEGEND = (
    "How important each pixel is for the chosen class. s is the 99th percentile of the absolute "
    "values, in the unit of each method."
)


def maps_figure(
    scores: Callable[[nn.Module, Tensor, Tensor, Tensor], Iterator[tuple[str, Tensor]]],
    model: ModelFile,
    options: MeasureOptions,
    ids: np.ndarray,
) -> Figure:
    """Draw a row for each image: the methods' maps for the class that a network chooses.

    Args:
        scores: Gives each method's name and maps (B, 1, H, W) for a network, normalized images
            (B, 3, H, W), their classes (B,) and their sample ids (B,). `random` is not drawn.
        model: The network.
        options: The data.
        ids: Sample ids of the images, int64 (B,).
    """
    data = open_data(options)
    (images, _, sample_ids), _ = data.batches("val")[0, ids]
    network, x = model.load(torch.device("cpu"), data.classes), normalize(images)
    with torch.no_grad():
        targets = network(x).argmax(1)
    maps: list[list[Heatmap]] = [[] for _ in images]
    for name, values in scores(network, x, targets, sample_ids):
        for row, each in zip(maps, values[:, 0].numpy(), strict=True):
            if name != "random":
                row.append(Heatmap(name.replace("_", " "), "", each))
    rows = [
        HeatmapRow(
            image.permute(1, 2, 0).numpy(),
            f"{sample_id}: {data.class_names[target]}",
            "the chosen class",
            row,
        )
        for image, sample_id, target, row in zip(
            images, sample_ids.tolist(), targets.tolist(), maps, strict=True
        )
    ]
    return heatmap_sheet(rows, LEGEND, "importance for the class")
