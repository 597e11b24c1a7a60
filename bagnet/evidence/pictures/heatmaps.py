"""Maps at every pixel, those of several networks side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bagnet.evidence.pictures.plots import (
    Sheet,
    colour_limit,
    draw_evidence,
    draw_image,
    evidence_bar,
    scale_text,
)
from datamodules.common.batch import Box

PICTURE = 2.24  # side of a picture, in inches: a dot for each pixel of 224
WIDTH = 40  # of a line above a picture, in characters
LEGEND = (
    "At every pixel, the evidence of the patch around it. s is the 99th percentile of its absolute "
    "values. The mean of such a map is not the logit, because patches at the rim see the padding; "
    "the mean of the native map is."
)


@dataclass(frozen=True)
class Heatmap:
    """A map at every pixel.

    Attributes:
        network: Label of the network.
        name: Name of the class.
        is_predicted: Whether the network predicts this class.
        logit: Logit of the class.
        evidence: Evidence for the class in logits, (H, W).
    """

    network: str
    name: str
    is_predicted: bool
    logit: float
    evidence: np.ndarray


@dataclass(frozen=True)
class HeatmapRow:
    """An image with its maps.

    Attributes:
        image: RGB pixels, uint8 (H, W, 3).
        title: What stands above the image, such as its class.
        file: Name of its file.
        maps: A map of each network.
    """

    image: np.ndarray
    title: str
    file: str
    maps: Sequence[Heatmap]


def heatmap_sheet(rows: Sequence[HeatmapRow]) -> Figure:
    """Show images beside maps at every pixel, each in its own colours, as in the paper's figure 2.

    Args:
        rows: The rows, with equally many maps; at least one.
    """
    side, gap, title, top, bottom = PICTURE, 0.12, 0.42, 0.3, 0.75
    columns = 1 + len(rows[0].maps)
    legend = textwrap.wrap(LEGEND, int(18 * columns * (side + gap)))
    top += 0.14 * len(legend)
    sheet = Sheet(0.3 + columns * (side + gap), top + len(rows) * (side + title) + bottom)
    sheet.text(0.15, 0.15, "\n".join(legend), size=8, color="0.35", va="top")
    for number, row in enumerate(rows):
        y = top + number * (side + title) + title - 0.1
        picture = sheet.axes(0.15, y, side, side)
        draw_image(picture, row.image, "bicubic")
        _heading(picture, row.title, row.file)
        for column, heatmap in enumerate(row.maps, 1):
            axes = sheet.axes(0.15 + column * (side + gap), y, side, side)
            limit = colour_limit(heatmap.evidence)
            draw_evidence(axes, row.image, heatmap.evidence, _pixel, limit)
            predicted = "predicted, " * heatmap.is_predicted
            numbers = f"{predicted}logit {heatmap.logit:.3f}, {scale_text(limit)}"
            _heading(axes, f"{heatmap.network}: {heatmap.name}", numbers)
    bar = sheet.axes(0.15, sheet.height - bottom + 0.12, side, 0.1)
    evidence_bar(bar, "the class", "each map's own scale")
    return sheet.figure


def _pixel(i: int, j: int) -> Box:
    """The box of a map with an entry for each pixel."""
    return i, j, i + 1, j + 1


def _heading(axes: Axes, *lines: str) -> None:
    """Lines above a picture, shortened to its width."""
    cut = (line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in lines)
    axes.set_title("\n".join(cut), fontsize=7.5, loc="left", pad=3)
