"""Sheets of visual words: the patches of each word, and what they vote for."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bagnet.evidence.pictures.plots import Sheet, draw_image

PATCH = 0.72  # side of a patch, in inches
NAME, NOTE = 23, 27  # the longest name of a class and line of a note, in characters
FOR, AGAINST = to_rgb("#b2182b"), to_rgb("#2166ac")  # the ends of the colours of evidence


@dataclass(frozen=True)
class Word:
    """A visual word.

    Attributes:
        title: Its name.
        note: What else to say of it; a few short lines.
        patches: The pixels of its patches, uint8 (R, R, 3) each.
        votes: Names of classes with its votes in logits, in the order in which they are drawn.
    """

    title: str
    note: str
    patches: Sequence[np.ndarray]
    votes: Sequence[tuple[str, float]]


def word_sheet(words: Sequence[Word], legend: str) -> Figure:
    """Show a row for each word: its patches, and its votes as bars with one scale for all words.

    Args:
        words: The words; at least one.
        legend: What is shown.
    """
    columns = max(len(word.patches) for word in words)
    left, names, bars, line = 1.75, 1.45, 1.5, PATCH + 0.14
    end = left + columns * (PATCH + 0.05)
    width = end + names + bars + 0.55
    lines = textwrap.wrap(legend, int(15 * width))
    top = 0.3 + 0.15 * len(lines)
    sheet = Sheet(width, top + line * len(words))
    sheet.text(0.15, 0.15, "\n".join(lines), size=8, color="0.35", va="top")
    votes = [vote for word in words for _, vote in word.votes]
    low, high = min(0.0, *votes), max(0.0, *votes)
    for number, word in enumerate(words):
        y = top + number * line
        sheet.text(0.15, y + 0.02, word.title, size=9, weight="bold", va="top")
        note = "\n".join(_cut(line, NOTE) for line in word.note.split("\n"))
        sheet.text(0.15, y + 0.2, note, size=7, color="0.35", va="top", linespacing=1.35)
        for column, patch in enumerate(word.patches):
            draw_image(sheet.axes(left + column * (PATCH + 0.05), y, PATCH, PATCH), patch)
        _bars(sheet.axes(end + names, y, bars, PATCH), word.votes, (low, high))
    return sheet.figure


def _bars(axes: Axes, votes: Sequence[tuple[str, float]], ends: tuple[float, float]) -> None:
    """Bars from the top with their votes beside them, red for a class and blue against it."""
    values = [vote for _, vote in votes]
    places = np.arange(len(votes))
    axes.barh(places, values, 0.8, color=[FOR if value > 0 else AGAINST for value in values])
    axes.axvline(0, color="0.3", linewidth=0.7)
    axes.set_yticks(places, [_cut(name, NAME) for name, _ in votes], fontsize=7)
    span = ends[1] - ends[0] or 1.0
    axes.set(xlim=(ends[0] - 0.02 * span, ends[1] + 0.02 * span), ylim=(len(votes) - 0.4, -0.6))
    axes.tick_params(left=False, bottom=False, labelbottom=False, pad=2)
    for place, value in enumerate(values):
        text = {"size": 6.5, "va": "center_baseline", "ha": "right"}
        axes.text(1.26, place, f"{value:+.1f}", text, transform=axes.get_yaxis_transform())
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
