"""The charts of the experiments: bars, and lines with a band for the interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
"""Rows of a table; "model" says which network a row is about."""

COLOURS = ("#5e3c99", "#b2abd2")  # of bars
MARK = "#e66101"


def bar_figure(rows: Rows, bars: Mapping[str, str], mark: tuple[str, str], xlabel: str) -> Figure:
    """Draw shares in percent for each network.

    Args:
        rows: One row for each network.
        bars: Keys of the `statistics.Interval`s, and their names in the legend.
        mark: Key of the number to mark on the first bar, which may be None, and its name.
        xlabel: Title of the axis.
    """
    figure = Figure(figsize=(6.4, 1.3 + 0.5 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 100), xlabel=xlabel)
    height = 0.76 / len(bars)
    first = np.arange(len(rows)) - height * (len(bars) - 1) / 2
    for number, (key, name) in enumerate(bars.items()):
        value, low, high = 100 * np.array([astuple(row[key]) for row in rows]).T
        errors = np.abs([low - value, high - value])
        y, colour = first + number * height, COLOURS[number]
        axes.barh(y, value, 0.95 * height, color=colour, label=name)
        axes.errorbar(value, y, xerr=errors, fmt="none", color="0.2", capsize=2)
    marks = 100 * np.array([row[mark[0]] for row in rows], dtype=float)
    if not np.isnan(marks).all():
        axes.plot(marks, first, "D", color=MARK, label=mark[1])
    axes.set_yticks(np.arange(len(rows)), [row["model"] for row in rows])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def line_figure(
    rows: Rows,
    x: str,
    panels: Mapping[str, str],
    xlabel: str,
    ylim: tuple[float | None, float | None] = (None, None),
    log: bool = False,
) -> Figure:
    """Draw intervals against numbers, with one line for each network.

    Args:
        rows: Rows of a table.
        x: Key of the numbers.
        panels: Keys of the `statistics.Interval`s, and the titles of their axes.
        xlabel: Title of the numbers.
        ylim: Ends of the other axes; None fits the data.
        log: Whether the scale of the numbers is logarithmic, of base 2.
    """
    figure = Figure(figsize=(4.5 * len(panels), 3.6), facecolor="white", layout="constrained")
    for number, (y, ylabel) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), number, xlabel=xlabel, ylabel=ylabel)
        for label in dict.fromkeys(row["model"] for row in rows):
            own = [row for row in rows if row["model"] == label]
            places = [row[x] for row in own]
            (line,) = axes.plot(places, [row[y].value for row in own], "o-", ms=4, label=label)
            low, high = [row[y].low for row in own], [row[y].high for row in own]
            axes.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        if log:
            axes.set_xscale("log", base=2)
            axes.set_xticks(sorted({row[x] for row in rows}), minor=False)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylim(*ylim)
        axes.legend(fontsize=8)
    return figure


Curve = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray, str]
"""x, y, and the format that Matplotlib's `plot` takes, such as `k--`."""


def panel_figure(panels: Mapping[str, Mapping[str, Curve]], xlabel: str, ylabel: str) -> Figure:
    """Draw curves side by side, in panels with the same axis that share a legend.

    Args:
        panels: For each title, the curves by their names in the legend.
        xlabel: Title of the horizontal axes.
        ylabel: Title of the vertical axis, which begins at 0.
    """
    size = (3.2 * len(panels) + 1.6, 3.4)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        for name, (x, y, style) in curves.items():
            axes.plot(x, y, style, label=name)
        axes.set(xlabel=xlabel)
        axes.set_title(title, fontsize=10)
    grid[0].set(ylabel=ylabel)
    grid[0].set_ylim(bottom=0)  # the panels share it
    grid[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
