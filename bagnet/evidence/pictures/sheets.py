"""Sheets of patches: the most informative ones of a class, and those that argued in a wrong decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bagnet.evidence.pictures.plots import (
    DPI,
    Box,
    BoxOf,
    colour_limit,
    draw_evidence,
    draw_overlay,
    empty_frame,
    evidence_bar,
    outline,
)

PATCH = 0.9  # side of a patch, inches
PICTURE = 1.95  # side of an image beside two rows of patches
SMALL = 7  # points


@dataclass(frozen=True)
class PatchRow:
    """Patches side by side.

    Attributes:
        title: What they have in common.
        patches: uint8 (R, R, 3) each.
        captions: One for each, or none.
    """

    title: str
    patches: Sequence[np.ndarray]
    captions: Sequence[str]


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class.

    Attributes:
        image: uint8 (H, W, 3).
        name: Of its file.
        true: Name of its class.
        predicted: Name of the class it was taken for.
        logits: Of the true and the predicted class.
        evidence: For the true and the predicted class, in logits, (2, H', W').
    """

    image: np.ndarray
    name: str
    true: str
    predicted: str
    logits: tuple[float, float]
    evidence: np.ndarray


def patch_sheet(blocks: Sequence[tuple[str, Sequence[PatchRow]]]) -> Figure:
    """Show rows of patches under headings, as in the paper's figure 3: a heading for each class.

    Args:
        blocks: Headings and their rows; at least one row with a patch.
    """
    columns = max(len(row.patches) for _, rows in blocks for row in rows)
    line, heading, left = PATCH + 0.36, 0.32, 1.35
    height = sum(heading + line * len(rows) for _, rows in blocks) + 0.15
    sheet = _Sheet(left + columns * (PATCH + 0.08) + 0.1, height)
    y = 0.1
    for title, rows in blocks:
        sheet.text(0.1, y + 0.2, title, weight="bold", size=9)
        y += heading
        for row in rows:
            sheet.text(0.1, y + PATCH / 2, row.title, size=8, va="center")
            for number, patch in enumerate(row.patches):
                axes = sheet.axes(left + number * (PATCH + 0.08), y, PATCH, PATCH)
                _draw(axes, patch)
                if row.captions:
                    axes.set_xlabel(row.captions[number], fontsize=SMALL, labelpad=2)
            y += line
    return sheet.figure


def mistake_sheet(mistakes: Sequence[Mistake], box: BoxOf, patches: int = 4) -> Figure:
    """Show what argued for the wrong and for the right class, side by side, as in the paper's figure 4.

    Each row: the image; the evidence for the predicted and for the true class, in one scale of colours; and the patches
    with the most evidence for each of the two, which are outlined in the image (no two of them touch).

    Args:
        mistakes: What to show; at least one.
        box: ``BagNet.box`` of the network.
        patches: How many of each class.
    """
    small, gap = (PICTURE - 0.25) / 2, 0.1
    left = 0.15 + 3 * (PICTURE + gap)
    line = PICTURE + 0.75
    width = left + patches * (small + 0.06) + 0.1
    sheet = _Sheet(width, line * len(mistakes) + 0.8)
    limit = colour_limit([mistake.evidence for mistake in mistakes])
    for number, mistake in enumerate(mistakes):
        y = number * line + 0.75
        true, predicted = mistake.evidence
        names = f"{mistake.name}: {mistake.true}, taken for {mistake.predicted}"
        sheet.text(0.15, y - 0.26, names, size=8, weight="bold")
        picture = sheet.axes(0.15, y, PICTURE, PICTURE)
        _draw(picture, mistake.image)
        for column, (title, evidence, logit) in enumerate(
            (
                (f"for {mistake.predicted}", predicted, mistake.logits[1]),
                (f"for {mistake.true}", true, mistake.logits[0]),
            )
        ):
            heat = sheet.axes(0.15 + (column + 1) * (PICTURE + gap), y, PICTURE, PICTURE)
            draw_evidence(heat, mistake.image, evidence, box, limit)
            heat.set_title(title, fontsize=SMALL + 0.5, pad=2)
            mean = f"mean evidence {evidence.mean():.3f} = logit {logit:.3f}"
            heat.set_xlabel(mean, fontsize=SMALL, labelpad=2)
            for place, entry in enumerate(apart(evidence, box, patches)):
                top, left_, bottom, right = box(*entry)
                outline(picture, (top, left_, bottom, right), dashed=bool(column))
                axes = sheet.axes(
                    left + place * (small + 0.06), y + column * (small + 0.25), small, small
                )
                _draw(axes, mistake.image[top:bottom, left_:right])
                axes.set_xlabel(f"{evidence[entry]:.1f}", fontsize=SMALL, labelpad=1)
                if place == 0:
                    axes.set_title(title, fontsize=SMALL, pad=1, loc="left")
    legend = "in the images: solid, the patches for the predicted class; dashed, for the true one"
    sheet.text(0.15, 0.18, legend, size=8, color="0.35")
    evidence_bar(sheet.axes(0.15, sheet.height - 0.52, 2 * PICTURE, 0.1), limit)
    return sheet.figure


def overlay(image: np.ndarray, evidence: np.ndarray, box: BoxOf, title: str) -> Figure:
    """One image with its evidence over it in colour, and what the colours mean: to look at, or for a slide.

    Args:
        image: uint8 (H, W, 3).
        evidence: In logits, (H', W').
        box: ``BagNet.box`` of the network.
        title: Names the class; the mean of the evidence is added.
    """
    height, width = image.shape[:2]
    side = 4.0
    size = side * width / max(height, width), side * height / max(height, width)
    sheet = _Sheet(max(size[0] + 0.3, 3.4), size[1] + 1.1)  # the words need room
    axes = sheet.axes((sheet.width - size[0]) / 2, 0.4, *size)
    limit = colour_limit([evidence])
    draw_overlay(axes, image, evidence, box, limit)
    words = f"{title}; mean evidence {evidence.mean():.3f}"
    sheet.text(sheet.width / 2, 0.3, words, size=9, ha="center")
    evidence_bar(sheet.axes(0.3, sheet.height - 0.55, sheet.width - 0.6, 0.1), limit)
    return sheet.figure


def apart(evidence: np.ndarray, box: BoxOf, count: int) -> list[tuple[int, int]]:
    """The entries with the most evidence whose patches do not overlap, strongest first: (H', W') -> at most ``count``."""
    chosen: list[tuple[int, int]] = []
    for place in np.argsort(-evidence, axis=None, kind="stable"):
        i, j = (int(index) for index in np.unravel_index(place, evidence.shape))
        if not any(_overlap(box(i, j), box(*other)) for other in chosen):
            chosen.append((i, j))
        if len(chosen) == count:
            break
    return chosen


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw(axes: Axes, image: np.ndarray) -> None:
    empty_frame(axes, image)
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest")


class _Sheet:
    """A figure laid out in inches from the left and from the top."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        return self.figure.add_axes(
            (
                left / self.width,
                1 - (top + height) / self.height,
                width / self.width,
                height / self.height,
            )
        )

    def text(self, left: float, top: float, text: str, size: float, **style: Any) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, text, fontsize=size, **style)
