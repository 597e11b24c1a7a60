"""Lines with their intervals, one for each network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes


def draw_lines(axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, y: str) -> None:
    """Draw the `statistics.Interval` that rows have as ``y`` against the number they have as ``x``.

    Args:
        axes: Where; it gets a legend.
        rows: Of a table; "model" tells which line a row belongs to.
        x: A key of the rows.
        y: Another.
    """
    for label in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == label]
        places = [row[x] for row in own]
        (line,) = axes.plot(places, [row[y].value for row in own], "o-", ms=4, label=label)
        low, high = [row[y].low for row in own], [row[y].high for row in own]
        axes.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.legend(fontsize=8)


def double(axes: Axes, places: set[int]) -> None:
    """Make x a scale of powers of two, with ticks at these places."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(places), minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
