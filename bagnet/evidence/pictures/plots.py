"""Heatmaps and contact sheets, by matplotlib's objects: no pyplot, no global state, no display.

A map entry sees a whole patch, and patches overlap, so a map is not a small picture of the image.
Every entry is drawn as a cell of one stride around the centre of its patch. The edge of the image,
where no patch has its centre, stays bare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.ndimage import correlate1d

from datamodules.common.batch import Box
from datamodules.common.files import replacing

COLOURS = "RdBu_r"  # red for the class, blue against it: distinct with any colour blindness
BARE = "0.92"  # where no patch has its centre; white would mean zero evidence
DPI = 100
SIDE = 1.75  # of one picture, in inches

BoxOf = Callable[[int, int], Box]
"""`BagNet.box`: the pixels of a map entry."""


@dataclass(frozen=True)
class Example:
    """An image of a contact sheet.

    Attributes:
        image: RGB pixels, uint8 (H, W, 3).
        evidence: Evidence for the predicted class, in logits, (H', W').
        logit: Logit of the predicted class, from the network's forward pass.
        true: Name of the true class.
        predicted: Name of the predicted class.
        planted: Boxes to outline on the image, such as the demo's textures.
    """

    image: np.ndarray
    evidence: np.ndarray
    logit: float
    true: str
    predicted: str
    planted: Sequence[Box] = ()


def colour_limit(maps: np.ndarray) -> float:
    """Where the colours of a map end on both sides: a percentile of |evidence|.

    A scale for each map keeps weak evidence visible, and the percentile leaves out outliers.
    """
    return float(np.percentile(np.abs(maps), 99)) or 1.0


def draw_evidence(
    axes: Axes, image: np.ndarray, evidence: np.ndarray, box: BoxOf, limit: float
) -> None:
    """Draw a map (H', W') in diverging colours, and over it the edges of its image (H, W, 3).

    This is how the paper draws them.
    """
    _frame(axes, image)
    first, last = box(0, 0), box(evidence.shape[0] - 1, evidence.shape[1] - 1)
    # A cell is as wide as one stride, and the centres of the patches are the centres of the cells.
    inset = (first[2] - first[0] - (box(1, 0)[0] - first[0])) / 2
    axes.imshow(
        evidence,
        cmap=COLOURS,
        norm=Normalize(-limit, limit),
        interpolation="nearest",
        extent=(first[1] + inset, last[3] - inset, last[2] - inset, first[0] + inset),
        zorder=1,
    )
    strength = edges(image)
    axes.imshow(
        np.dstack([np.zeros((*strength.shape, 3)), 0.75 * strength]),
        interpolation="bilinear",
        extent=(0, image.shape[1], image.shape[0], 0),
        zorder=2,
    )


def evidence_bar(axes: Axes, classes: str) -> None:
    """Draw the legend of the colours of evidence, in wide and low axes."""
    colour_bar(axes, f"evidence of a patch for {classes} (logits)", "each map's own scale")


def colour_bar(axes: Axes, quantity: str, scale: str) -> None:
    """Draw the legend of the colours of some quantity, with numbers that are given elsewhere."""
    colours = ScalarMappable(Normalize(-1, 1), COLOURS)
    bar = axes.figure.colorbar(colours, cax=axes, orientation="horizontal", extend="both")
    bar.set_ticks([-1, 0, 1], labels=["-s", "0", "s"])
    axes.set_xlabel(f"{quantity}\ns: {scale}, given at its map", fontsize=8, loc="left")
    axes.tick_params(labelsize=8)


def scale_text(limit: float) -> str:
    """What a picture says about its colours."""
    return f"s = {limit:.3g}"


def edges(image: np.ndarray) -> np.ndarray:
    """Strength of the edges of an image: uint8 (H, W, 3) -> float (H, W), from 0 to 1."""
    down, right = (
        correlate1d(image.astype(np.float64), (-1, 0, 1), axis, mode="nearest") for axis in (0, 1)
    )
    # The strongest channel: red and green can be equally bright.
    strength = np.hypot(down, right).max(axis=2)
    relative: np.ndarray = strength / (np.percentile(strength, 98) or 1.0)
    return relative.clip(0, 1) ** 1.5


def contact_sheet(
    examples: Sequence[Example], box: BoxOf, columns: int = 3, of: str = "the predicted class"
) -> Figure:
    """Show images side by side with the evidence for a class.

    Solid squares are planted; the dashed one is the patch with the strongest evidence. Each caption
    has the logit and the mean of the map, which are the same number by the network's construction.
    Each map has its own scale of colours, s, which stands above it.

    Args:
        examples: The images, row by row; at least one.
        box: `BagNet.box` of the network.
        columns: Number of examples in a row.
        of: What class that is.
    """
    columns = min(columns, len(examples))
    rows = -(-len(examples) // columns)
    pair, caption, top, bottom = 2 * SIDE + 0.35, 0.48, 0.28, 0.8
    sheet = Sheet(columns * pair + 0.15, rows * (SIDE + caption) + top + bottom)
    for number, example in enumerate(examples):
        row, column = divmod(number, columns)
        left, y = 0.2 + column * pair, top + row * (SIDE + caption) + caption - 0.08
        picture = sheet.axes(left, y, SIDE, SIDE)
        draw_image(picture, example.image, "bicubic")
        for planted in example.planted:
            outline(picture, planted)
        heat = sheet.axes(left + SIDE + 0.05, y, SIDE, SIDE)
        limit = colour_limit(example.evidence)
        draw_evidence(heat, example.image, example.evidence, box, limit)
        heat.set_title(scale_text(limit), fontsize=7.5, loc="right", pad=4, color="0.35")
        strongest = box(*divmod(int(example.evidence.argmax()), example.evidence.shape[1]))
        for axes in (picture, heat):
            outline(axes, strongest, dashed=True)
        classes, colour = example.true, "black"
        if example.predicted != example.true:
            classes, colour = f"{example.true}, taken for {example.predicted}", "#b35806"
        means = f"logit {example.logit:.3f} = mean evidence {example.evidence.mean():.3f}"
        text = f"{classes}\n{means}"
        picture.set_title(text, fontsize=7.5, loc="left", pad=4, color=colour)
    legend = "dashed: the patch with the strongest evidence"
    if any(example.planted for example in examples):
        legend = f"solid: planted; {legend}"
    sheet.text(0.2, 0.24, legend, size=8, color="0.35")
    bar = sheet.axes(0.2, sheet.height - bottom + 0.16, 2 * SIDE + 0.05, 0.11)
    evidence_bar(bar, of)
    return sheet.figure


class Sheet:
    """A figure with a layout in inches, from the left and from the top."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes."""
        w, h = self.width, self.height
        return self.figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))

    def text(self, left: float, top: float, text: str, size: float, **style: Any) -> None:
        """Add a text of a size in points."""
        self.figure.text(left / self.width, 1 - top / self.height, text, fontsize=size, **style)


def rgb(figure: Figure) -> np.ndarray:
    """The pixels of a figure, uint8 (H, W, 3)."""
    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
    canvas.draw()
    pixels: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return pixels


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure to a file. The same figure gives the same bytes."""
    with replacing(path) as temporary:
        # Matplotlib would write its version into the file.
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def draw_image(axes: Axes, image: np.ndarray, interpolation: str = "nearest") -> None:
    """Draw an image (H, W, 3), one unit per pixel."""
    _frame(axes, image)
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), interpolation=interpolation)


def _frame(axes: Axes, image: np.ndarray) -> None:
    """Set axes up for the pixels of an image: y downwards, a thin frame and no ticks."""
    height, width = image.shape[:2]
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
    axes.set_facecolor(BARE)
    axes.set_autoscale_on(False)
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color="0.6")


def outline(axes: Axes, box: Box, dashed: bool = False) -> None:
    """Outline a box, in black on white, so that it shows on any background."""
    top, left, bottom, right = box
    for width, colour in ((2.4, "white"), (1.1, "black")):
        axes.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                linewidth=width,
                edgecolor=colour,
                linestyle=(0, (3, 2)) if dashed and colour == "black" else "-",
                zorder=3,
            )
        )
