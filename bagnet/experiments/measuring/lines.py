"""Line plots with confidence bands, one line for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes


def draw_lines(axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, y: str) -> None:
    """Draw intervals against numbers.

    Args:
        axes: Axes to draw in; they get a legend.
        rows: Rows of a table; "model" says which line a row belongs to.
        x: Key of the numbers.
        y: Key of the `statistics.Interval`s.
    """
    for label in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == label]
        places = [row[x] for row in own]
        (line,) = axes.plot(places, [row[y].value for row in own], "o-", ms=4, label=label)
        low, high = [row[y].low for row in own], [row[y].high for row in own]
        axes.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.legend(fontsize=8)


def scale_by_two(axes: Axes, ticks: set[int]) -> None:
    """Make x a logarithmic scale of base 2 with these ticks."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks), minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
