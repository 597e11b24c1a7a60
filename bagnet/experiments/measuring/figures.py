"""The charts of the experiments: bars, lines for each network, and panels of curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

Rows = Sequence[Mapping[str, Any]]
"""Rows of a table; "model" says which network a row is about."""

Colours = Mapping[str, str]
"""The colour of each network, from `colours.network_colours`."""

WIDTH = 8.8  # inches: as wide as a column of text on a page
STRENGTHS = (0.4, 1.0)  # of the bars of a network


def bar_figure(
    rows: Rows, bars: Mapping[str, str], mark: tuple[str, str], xlabel: str, colours: Colours
) -> Figure:
    """Draw shares in percent for each network.

    Args:
        rows: One row for each network.
        bars: Keys of the two `statistics.Interval`s, and their names in the legend.
        mark: Key of the number to mark on the first bar, which may be None, and its name.
        xlabel: Title of the axis.
        colours: The colours of the networks.
    """
    figure = Figure(figsize=(6.4, 1.3 + 0.5 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 100), xlabel=xlabel)
    height = 0.76 / len(bars)
    first = np.arange(len(rows)) - height * (len(bars) - 1) / 2
    legend: list[Any] = []
    for number, (key, name) in enumerate(bars.items()):
        value, low, high = 100 * np.array([astuple(row[key]) for row in rows]).T
        errors = np.abs([low - value, high - value])
        y, strength = first + number * height, STRENGTHS[number]
        shades = [(colours[row["model"]], strength) for row in rows]
        axes.barh(y, value, 0.95 * height, color=shades)
        axes.errorbar(value, y, xerr=errors, fmt="none", color="0.2", capsize=2)
        legend.append(Patch(color=("0.3", strength), label=name))
    marks = 100 * np.array([row.get(mark[0]) for row in rows], dtype=float)
    if not np.isnan(marks).all():
        legend += axes.plot(marks, first, "D", mfc="white", mec="black", ms=7, label=mark[1])
    axes.set_yticks(np.arange(len(rows)), [row["model"] for row in rows])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False)
    return figure


def line_figure(
    rows: Rows,
    x: str,
    panels: Mapping[str, str],
    xlabel: str,
    colours: Colours,
    *,
    ticks: Mapping[Any, str] | None = None,
    ylim: tuple[float | None, float | None] = (None, None),
    percent: bool = False,
    chance: Mapping[str, float] | None = None,
) -> Figure:
    """Draw intervals against numbers, with one line for each network.

    Args:
        rows: Rows of a table.
        x: Key of the numbers.
        panels: Keys of the `statistics.Interval`s, and the titles of their axes.
        xlabel: Title of the numbers.
        colours: The colours of the networks.
        ticks: The names of all numbers; they are then drawn at equal distances, and the networks
            side by side, so that none hides another.
        ylim: Ends of the other axes; None fits the data.
        percent: Whether to draw shares in percent.
        chance: For each panel, what guessing would give.
    """
    scale = 100 if percent else 1
    labels = list(dict.fromkeys(row["model"] for row in rows))
    size = (min(WIDTH, 5.5 * len(panels)), 3.9)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    handles: dict[str, Any] = {}
    for axes, (y, ylabel) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.spines[["top", "right"]].set_visible(False)
        for number, label in enumerate(labels):
            own = [row for row in rows if row["model"] == label]
            value, low, high = scale * np.array([astuple(row[y]) for row in own]).T
            style = {"color": colours[label], "marker": "o", "ms": 4, "label": label}
            if ticks:
                aside = 0.5 * ((number + 0.5) / len(labels) - 0.5)
                places = [list(ticks).index(row[x]) + aside for row in own]
                errors = np.abs([low - value, high - value])
                handles[label] = axes.errorbar(places, value, errors, capsize=2, **style)
            else:
                places = [row[x] for row in own]
                (handles[label],) = axes.plot(places, value, **style)
                axes.fill_between(places, low, high, color=colours[label], alpha=0.2, linewidth=0)
        if ticks:
            axes.set_xticks(range(len(ticks)), list(ticks.values()))
        if chance:
            handles["chance"] = axes.axhline(scale * chance[y], color="0.5", ls=":", zorder=0)
        axes.set_ylim(*ylim)
    _legend_below(figure, handles)
    return figure


def point_figure(rows: Rows, y: str, x: str, xlabel: str, colours: Colours) -> Figure:
    """Draw intervals for each network and word, below each other.

    Args:
        rows: Rows of a table.
        y: Key of the words.
        x: Key of the `statistics.Interval`s.
        xlabel: Title of the intervals, which end at 1 at most.
        colours: The colours of the networks.
    """
    words = list(dict.fromkeys(row[y] for row in rows))
    labels = list(dict.fromkeys(row["model"] for row in rows))
    height = 1.2 + len(words) * max(0.3, 0.14 * len(labels))
    figure = Figure(figsize=(6.4, height), facecolor="white", layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel)
    axes.axvline(0, color="0.5", linewidth=0.8, zorder=0)
    handles: dict[str, Any] = {}
    for number, label in enumerate(labels):
        own = [row for row in rows if row["model"] == label]
        value, low, high = np.array([astuple(row[x]) for row in own]).T
        aside = 0.7 * ((number + 0.5) / len(labels) - 0.5)
        places = [words.index(row[y]) + aside for row in own]
        errors = np.abs([low - value, high - value])
        style = {"fmt": "o", "ms": 4, "capsize": 2, "color": colours[label], "label": label}
        handles[label] = axes.errorbar(value, places, xerr=errors, **style)
    for border in np.arange(1, len(words)) - 0.5:
        axes.axhline(border, color="0.9", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(words)), words)
    axes.set_ylim(len(words) - 0.5, -0.5)
    axes.set_xlim(right=1.02)
    axes.spines[["top", "right"]].set_visible(False)
    _legend_below(figure, handles)
    return figure


@dataclass(frozen=True)
class Curve:
    """A curve of a panel.

    Attributes:
        x: Numbers (n,).
        y: Values (n,).
        band: Low and high ends of their intervals, (2, n), or None.
        style: Arguments of Matplotlib's `plot`.
    """

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    band: np.ndarray | None
    style: Mapping[str, Any]


def panel_figure(
    panels: Mapping[str, Mapping[str, Curve]], xlabel: str, ylabel: str, columns: int = 3
) -> Figure:
    """Draw curves in panels with the same axes that share a legend.

    Args:
        panels: For each title, the curves by their names in the legend.
        xlabel: Title of the horizontal axes.
        ylabel: Title of the vertical axes, which begin at 0.
        columns: The most panels in a row.
    """
    columns = 2 if len(panels) == 4 else min(columns, len(panels))  # full rows
    rows = -(-len(panels) // columns)
    size = (min(WIDTH, 1.2 + 3.8 * columns), 0.8 + 2.7 * rows)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    axes: Axes
    for number, (axes, (title, curves)) in enumerate(zip(grid, panels.items(), strict=False)):
        for name, curve in curves.items():
            (handles[name],) = axes.plot(curve.x, curve.y, label=name, **curve.style)
            if curve.band is not None:
                colour = handles[name].get_color()
                alpha = min(0.15, 0.5 / len(curves))  # many would hide the lines
                axes.fill_between(curve.x, *curve.band, color=colour, alpha=alpha, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if number + columns >= len(panels):  # there is none below
            axes.set_xlabel(xlabel)
            axes.tick_params(labelbottom=True)
    for axes in grid[::columns]:
        axes.set_ylabel(ylabel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    grid[0].set_ylim(bottom=0)  # the panels share it
    _legend_below(figure, handles)
    return figure


def image_figure(columns: Mapping[str, Tensor]) -> Figure:
    """Show images in a grid, with a row for each image and a column for each of its versions.

    Args:
        columns: uint8 (n, 3, H, W), by the title of the column.
    """
    count = len(next(iter(columns.values())))
    figure = Figure(figsize=(1.2 * len(columns), 1.2 * count + 0.3), layout="constrained")
    panels = figure.subplots(count, len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        panels[0, column].set_title(title, fontsize=8)
        for axes, image in zip(panels[:, column], images, strict=True):
            axes.imshow(image.permute(1, 2, 0).numpy())
            axes.set_axis_off()
    return figure


def _legend_below(figure: Figure, handles: Mapping[str, Any]) -> None:
    longest = max(map(len, handles))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, min(len(handles), int(figure.get_figwidth() / (0.7 + 0.07 * longest)))),
        frameon=False,
        fontsize=9,
    )
