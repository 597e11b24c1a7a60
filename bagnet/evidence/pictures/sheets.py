"""Sheets of patches: the most informative ones of a class, and those behind a wrong decision."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from bagnet.evidence.pictures.plots import (
    BoxOf,
    Sheet,
    colour_limit,
    draw_evidence,
    draw_image,
    evidence_bar,
    outline,
    scale_text,
)
from datamodules.common.batch import Box

PATCH = 0.9  # side of a patch, in inches
PICTURE = 1.95  # side of an image, in inches
SMALL = 7  # size of small text, in points


@dataclass(frozen=True)
class Mistake:
    """A misclassified image.

    Attributes:
        image: RGB pixels, uint8 (H, W, 3).
        name: Name of its file.
        true: Name of the true class.
        predicted: Name of the predicted class.
        logits: Logits of the true and of the predicted class.
        evidence: Evidence for the true and for the predicted class, in logits, (2, H', W').
        note: What else to say of it, in a line; empty for nothing.
    """

    image: np.ndarray
    name: str
    true: str
    predicted: str
    logits: tuple[float, float]
    evidence: np.ndarray
    note: str = ""


def patch_sheet(blocks: Mapping[str, Mapping[str, Sequence[tuple[np.ndarray, str]]]]) -> Figure:
    """Show rows of patches under a heading for each class, as in the paper's figure 3.

    Args:
        blocks: For each heading and title of a row, the patches with their captions: RGB pixels,
            uint8 (R, R, 3), and text. A row with fewer patches than others says that there are no
            more images.
    """
    columns = max(1, *(len(patches) for rows in blocks.values() for patches in rows.values()))
    heading, left, top = 0.32, 1.35, 0.3
    captions = {
        (title, row): [_wrapped(caption) for _, caption in patches]
        for title, rows in blocks.items()
        for row, patches in rows.items()
    }
    lines = {
        row: PATCH + 0.14 + 0.12 * max((text.count("\n") + 1 for text in texts), default=1)
        for row, texts in captions.items()
    }
    height = sum(lines.values()) + heading * len(blocks) + top + 0.05
    sheet = Sheet(left + columns * (PATCH + 0.08) + 0.1, height)
    sheet.text(0.1, 0.2, "below a patch: its evidence, in logits", size=8, color="0.35")
    y = top
    for title, rows in blocks.items():
        sheet.text(0.1, y + 0.2, title, weight="bold", size=9)
        y += heading
        for row, patches in rows.items():
            sheet.text(0.1, y + PATCH / 2, row, size=8, va="center")
            for number, (patch, _) in enumerate(patches):
                axes = sheet.axes(left + number * (PATCH + 0.08), y, PATCH, PATCH)
                draw_image(axes, patch)
                axes.set_xlabel(captions[title, row][number], fontsize=SMALL, labelpad=2)
            if len(patches) < columns:
                text = "no more images" if patches else "no images"
                x = left + len(patches) * (PATCH + 0.08) + 0.08 * bool(patches)
                sheet.text(x, y + PATCH / 2, text, SMALL, color="0.35", va="center")
            y += lines[title, row]
    return sheet.figure


def _wrapped(caption: str) -> str:
    """A caption below a patch: each of its lines becomes two at most."""
    lines = (
        textwrap.wrap(line, width=17, max_lines=2, placeholder="…") for line in caption.split("\n")
    )
    return "\n".join(text for wrapped in lines for text in wrapped)


def mistake_sheet(mistakes: Sequence[Mistake], box: BoxOf, patches: int = 4) -> Figure:
    """Show the evidence for the wrong and for the right class, as in the paper's figure 4.

    Each row has the image; the evidence for the predicted and for the true class, each map in its
    own scale of colours, as one is often much weaker; and the patches with the most evidence for
    each of the two, which do not overlap and are outlined in the image.

    Args:
        mistakes: The images; at least one.
        box: `BagNet.box` of the network.
        patches: Number of patches for each class.
    """
    small, gap = (PICTURE - 0.25) / 2, 0.1
    left = 0.15 + 3 * (PICTURE + gap)
    noted = 0.16 if any(mistake.note for mistake in mistakes) else 0.0
    line = PICTURE + 0.75 + noted
    width = left + patches * (small + 0.06) + 0.1
    sheet = Sheet(width, line * len(mistakes) + 0.95)
    for number, mistake in enumerate(mistakes):
        y = number * line + 0.75 + noted
        names = f"{mistake.name}: {mistake.true}, taken for {mistake.predicted}"
        sheet.text(0.15, y - 0.26 - noted, names, size=8, weight="bold")
        sheet.text(0.15, y - 0.26, mistake.note, size=8, color="0.35")
        picture = sheet.axes(0.15, y, PICTURE, PICTURE)
        draw_image(picture, mistake.image)
        for column, name in ((0, mistake.predicted), (1, mistake.true)):
            evidence, logit = mistake.evidence[1 - column], mistake.logits[1 - column]
            heat = sheet.axes(0.15 + (column + 1) * (PICTURE + gap), y, PICTURE, PICTURE)
            limit = colour_limit(evidence)
            draw_evidence(heat, mistake.image, evidence, box, limit)
            title = f"for {name}, {scale_text(limit)}"
            heat.set_title(title, fontsize=SMALL + 0.5, pad=2)
            mean = f"mean evidence {evidence.mean():.3f} = logit {logit:.3f}"
            heat.set_xlabel(mean, fontsize=SMALL, labelpad=2)
            chosen = apart(evidence, box, patches)
            for place, entry in enumerate(chosen):
                pixels = box(*entry)
                outline(picture, pixels, dashed=bool(column))
                axes = sheet.axes(
                    left + place * (small + 0.06), y + column * (small + 0.25), small, small
                )
                draw_image(axes, mistake.image[pixels[0] : pixels[2], pixels[1] : pixels[3]])
                axes.set_xlabel(f"{evidence[entry]:.1f}", fontsize=SMALL, labelpad=1)
                if place == 0:
                    axes.set_title(f"for {name}", fontsize=SMALL, pad=1, loc="left")
            if len(chosen) < patches:
                x = left + len(chosen) * (small + 0.06) + 0.05
                y_middle = y + column * (small + 0.25) + small / 2
                sheet.text(x, y_middle, "all others\noverlap", SMALL, color="0.35", va="center")
    legend = (
        "in the images: solid, the patches for the predicted class; dashed, for the true one; "
        "below a patch: its evidence, in logits"
    )
    sheet.text(0.15, 0.18, legend, size=8, color="0.35")
    evidence_bar(sheet.axes(0.15, sheet.height - 0.67, 2 * PICTURE, 0.1), "a class")
    return sheet.figure


def apart(evidence: np.ndarray, box: BoxOf, count: int) -> list[tuple[int, int]]:
    """The strongest entries of a map (H', W') whose patches do not overlap, strongest first."""
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
