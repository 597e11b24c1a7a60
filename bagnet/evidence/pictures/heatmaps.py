"""Maps at every pixel, those of several networks or methods side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bagnet.evidence.pictures.plots import (
    Sheet,
    colour_bar,
    colour_limit,
    draw_evidence,
    draw_image,
    scale_text,
)
from datamodules.common.batch import Box

PICTURE = 2.24  # side of a picture, in inches: a dot for each pixel of 224
WIDTH = 40  # of a line above a picture, in characters


@dataclass(frozen=True)
class Heatmap:
    """A map at every pixel.

    Attributes:
        title: Whose map it is.
        note: What else to say of it, such as a logit; empty for nothing.
        values: In logits, (H, W).
    """

    title: str
    note: str
    values: np.ndarray


@dataclass(frozen=True)
class HeatmapRow:
    """An image with its maps.

    Attributes:
        image: RGB pixels, uint8 (H, W, 3).
        title: What stands above the image, such as its class.
        file: Name of its file.
        maps: The maps beside it.
        mask: What to outline in all of them, bool (H, W), or None.
    """

    image: np.ndarray
    title: str
    file: str
    maps: Sequence[Heatmap]
    mask: np.ndarray | None = None


def heatmap_sheet(rows: Sequence[HeatmapRow], legend: str, quantity: str) -> Figure:
    """Show images beside maps at every pixel, each in its own colours, as in the paper's figure 2.

    Args:
        rows: The rows, with equally many maps; at least one.
        legend: What the maps are.
        quantity: What the colours are, in few words.
    """
    side, gap, title, top, bottom = PICTURE, 0.12, 0.42, 0.3, 0.75
    columns = 1 + len(rows[0].maps)
    lines = textwrap.wrap(legend, int(18 * columns * (side + gap)))
    top += 0.14 * len(lines)
    sheet = Sheet(0.3 + columns * (side + gap), top + len(rows) * (side + title) + bottom)
    sheet.text(0.15, 0.15, "\n".join(lines), size=8, color="0.35", va="top")
    for number, row in enumerate(rows):
        y = top + number * (side + title) + title - 0.1
        picture = sheet.axes(0.15, y, side, side)
        draw_image(picture, row.image, "bicubic")
        _outline(picture, row.mask)
        _heading(picture, row.title, row.file)
        for column, heatmap in enumerate(row.maps, 1):
            axes = sheet.axes(0.15 + column * (side + gap), y, side, side)
            limit = colour_limit(heatmap.values)
            draw_evidence(axes, row.image, heatmap.values, _pixel, limit)
            _outline(axes, row.mask)
            note = f"{heatmap.note}, " if heatmap.note else ""
            _heading(axes, heatmap.title, note + scale_text(limit))
    bar = sheet.axes(0.15, sheet.height - bottom + 0.12, side, 0.1)
    colour_bar(bar, quantity, "each map's own scale")
    return sheet.figure


def _pixel(i: int, j: int) -> Box:
    """The box of a map with an entry for each pixel."""
    return i, j, i + 1, j + 1


def _outline(axes: Axes, mask: np.ndarray | None) -> None:
    """Outline a mask in black on white, so that it shows on any background."""
    if mask is None or not mask.any():
        return
    height, width = mask.shape
    places = np.arange(-0.5, width + 1), np.arange(-0.5, height + 1)  # centres, and a rim of zeros
    for thickness, colour in ((1.8, "white"), (0.8, "black")):
        axes.contour(*places, np.pad(mask, 1), [0.5], colors=colour, linewidths=thickness, zorder=3)


def _heading(axes: Axes, *lines: str) -> None:
    """Lines above a picture, shortened to its width."""
    cut = (line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in lines)
    axes.set_title("\n".join(cut), fontsize=7.5, loc="left", pad=3)
