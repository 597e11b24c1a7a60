"""Pictures of evidence. They use matplotlib's objects only: no pyplot, no global state, no display.

A map entry sees a whole patch, and patches overlap, so a map is not a small picture of the image.
Every entry is drawn as a cell of one stride around the centre of its patch; the rim of the image,
where no patch has its centre, stays bare.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from datamodules.common.batch import Box

COLOURS = "RdBu_r"  # red for the class, blue against it: told apart with every colour blindness
BARE = "0.92"  # where no patch has its centre; white would say that the evidence is zero
DPI = 100
TILE = 1.75  # side of one picture, inches

BoxOf = Callable[[int, int], Box]
"""``BagNet.box``: the pixels (top, left, bottom, right; half-open) of a map entry."""


@dataclass(frozen=True)
class Example:
    """One row of evidence to show.

    Attributes:
        image: uint8 (H, W, 3).
        evidence: Of the predicted class, in logits, (H', W').
        logit: Of the predicted class, as the network's forward pass gives it.
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


def colour_limit(maps: Sequence[np.ndarray], percentile: float = 99) -> float:
    """Where the colours end on both sides: a percentile of |evidence|, so outliers do not fade the rest."""
    limit = float(np.percentile(np.concatenate([np.abs(m).ravel() for m in maps]), percentile))
    return limit or 1.0


def draw_evidence(
    axes: Axes, image: np.ndarray, evidence: np.ndarray, box: BoxOf, limit: float
) -> None:
    """Draw a map (H', W') in diverging colours with the edges of its image (H, W, 3) over it, as the paper does."""
    empty_frame(axes, image)
    _draw_cells(axes, evidence, box, limit)
    strength = edges(image)
    axes.imshow(
        np.dstack([np.zeros((*strength.shape, 3)), 0.75 * strength]),
        interpolation="bilinear",
        extent=(0, image.shape[1], image.shape[0], 0),
        zorder=2,
    )


def draw_overlay(
    axes: Axes, image: np.ndarray, evidence: np.ndarray, box: BoxOf, limit: float
) -> None:
    """Draw an image (H, W, 3) in grey with its map (H', W') over it: the stronger the evidence, the less transparent."""
    empty_frame(axes, image)
    grey = image.mean(2)
    extent = (0, image.shape[1], image.shape[0], 0)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="bicubic")
    opacity = 0.15 + 0.6 * (np.abs(evidence) / limit).clip(0, 1)
    _draw_cells(axes, evidence, box, limit, opacity)


def _draw_cells(
    axes: Axes, evidence: np.ndarray, box: BoxOf, limit: float, opacity: np.ndarray | None = None
) -> None:
    height, width = evidence.shape
    first, last = box(0, 0), box(height - 1, width - 1)
    # A cell is one stride wide, and the centres of the patches are the centres of the cells.
    inset = (first[2] - first[0] - (box(1, 0)[0] - first[0])) / 2
    axes.imshow(
        evidence,
        cmap=COLOURS,
        norm=Normalize(-limit, limit),
        alpha=opacity,
        interpolation="nearest",
        extent=(first[1] + inset, last[3] - inset, last[2] - inset, first[0] + inset),
        zorder=1,
    )


def evidence_bar(axes: Axes, limit: float) -> None:
    """Say what the colours mean, in axes that are wide and low."""
    colours = ScalarMappable(Normalize(-limit, limit), COLOURS)
    axes.figure.colorbar(colours, cax=axes, orientation="horizontal", extend="both")
    axes.set_xlabel("evidence of a patch for the class (logits)", fontsize=8)
    axes.tick_params(labelsize=8)


def edges(image: np.ndarray) -> np.ndarray:
    """Strength of the edges of an image, uint8 (H, W, 3) -> float (H, W), 0 to 1."""
    pixels = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = pixels[2:, 1:-1] - pixels[:-2, 1:-1]
    right = pixels[1:-1, 2:] - pixels[1:-1, :-2]
    # The strongest channel: red and green can be equally bright.
    strength = np.hypot(down, right).max(axis=2)
    return (strength / (np.percentile(strength, 98) or 1.0)).clip(0, 1) ** 1.5


def contact_sheet(examples: Sequence[Example], box: BoxOf, columns: int = 3) -> Figure:
    """Show examples side by side: image and planted boxes | evidence for the predicted class.

    A solid square is planted, a dashed one is the patch with the strongest evidence. Each caption says the logit and the
    mean of the map, which are the same number by the network's construction. All maps share one
    scale of colours.

    Args:
        examples: What to show, row by row; at least one.
        box: ``BagNet.box`` of the network.
        columns: Examples in a row.
    """
    columns = min(columns, len(examples))
    rows = -(-len(examples) // columns)
    pair, caption, top, bottom = 2 * TILE + 0.35, 0.48, 0.28, 0.66
    size = (columns * pair + 0.15, rows * (TILE + caption) + top + bottom)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    limit = colour_limit([example.evidence for example in examples])

    def axes_at(left: float, y: float, width: float, height: float) -> Axes:
        """Axes by inches from the left and from the top."""
        return figure.add_axes(
            (left / size[0], 1 - (y + height) / size[1], width / size[0], height / size[1])
        )

    for number, example in enumerate(examples):
        row, column = divmod(number, columns)
        left, y = 0.2 + column * pair, top + row * (TILE + caption) + caption - 0.08
        picture = axes_at(left, y, TILE, TILE)
        empty_frame(picture, example.image)
        picture.imshow(
            example.image,
            extent=(0, example.image.shape[1], example.image.shape[0], 0),
            interpolation="bicubic",
        )
        for planted in example.planted:
            outline(picture, planted)
        heat = axes_at(left + TILE + 0.05, y, TILE, TILE)
        draw_evidence(heat, example.image, example.evidence, box, limit)
        strongest = box(*divmod(int(example.evidence.argmax()), example.evidence.shape[1]))
        for axes in (picture, heat):
            outline(axes, strongest, dashed=True)
        is_right = example.predicted == example.true
        picture.text(
            0,
            1.03,
            _caption(example),
            transform=picture.transAxes,
            fontsize=7.5,
            va="bottom",
            color="black" if is_right else "#b35806",
        )
    legend = "dashed: the patch with the strongest evidence"
    if any(example.planted for example in examples):
        legend = f"solid: planted; {legend}"
    figure.text(0.2 / size[0], 1 - 0.24 / size[1], legend, fontsize=8, color="0.35")
    bar = axes_at(0.2, size[1] - bottom + 0.16, 2 * TILE + 0.05, 0.11)
    evidence_bar(bar, limit)
    bar.set_xlabel("evidence of a patch for the predicted class (logits)", fontsize=8)
    return figure


def rgb(figure: Figure) -> np.ndarray:
    """The pixels of a figure, uint8 (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure; the same figure gives the same bytes, and the file appears complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Matplotlib would write its version into the file.
        figure.savefig(unfinished, format="png", dpi=DPI, metadata={"Software": None})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _caption(example: Example) -> str:
    names = example.true
    if example.predicted != example.true:
        names = f"{example.true}, taken for {example.predicted}"
    return f"{names}\nlogit {example.logit:.3f} = mean evidence {example.evidence.mean():.3f}"


def empty_frame(axes: Axes, image: np.ndarray) -> None:
    """Axes in the pixels of an image, y downwards, with a thin frame and no ticks."""
    height, width = image.shape[:2]
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
    axes.set_facecolor(BARE)
    axes.set_autoscale_on(False)
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color="0.6")


def outline(axes: Axes, box: Box, dashed: bool = False) -> None:
    """Outline pixels, dark on light, so that it shows on every background."""
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
