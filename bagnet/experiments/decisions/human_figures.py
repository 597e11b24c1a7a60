"""The figures of `humans`: shape bias by category, and accuracy by condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bagnet.experiments.decisions.observers import CONDITIONS, HUMANS, Trials, observers_of
from bagnet.experiments.measuring.figures import WIDTH, Colours, Rows
from bagnet.experiments.measuring.statistics import Interval, share

MARKERS = {HUMANS: "D"}  # of networks: a dot

UNITS = {
    "colour": "cr: colour, bw: grey",
    "contrast": "c: contrast, %",
    "high-pass": "standard deviation, px",
    "low-pass": "standard deviation, px",
    "phase-scrambling": "width of the phase noise, °",
    "power-equalisation": "0: original, pow: equalised",
    "false-colour": "true: original, false: opponent",
    "rotation": "angle, °",
    "eidolonI": "reach, coherence 1",
    "eidolonII": "reach, coherence 0.3",
    "eidolonIII": "reach, coherence 0",
    "uniform-noise": "width of the noise",
}


def bias_figure(
    biases: Mapping[str, Mapping[str, Interval | None]], means: Rows, colours: Colours
) -> Figure:
    """Draw each observer's shape bias by category, the humans' largest at the top.

    Args:
        biases: For each observer, the shape bias of each category, or None.
        means: A row for each observer with its bias.
        colours: The colour of each observer.
    """
    of_humans = {name: bias.value if bias else 0 for name, bias in biases[HUMANS].items()}
    order = sorted(of_humans, key=of_humans.__getitem__)
    figure = Figure(figsize=(6.4, 5.6), facecolor="white", layout="constrained")
    axes = figure.add_subplot(xlim=(-2, 102), ylim=(-0.7, len(order) - 0.3))
    for label, own in biases.items():
        known = [place for place, name in enumerate(order) if own[name]]
        shares = [100 * bias.value for name in order if (bias := own[name])]
        style: dict[str, Any] = {"color": colours[label], "marker": MARKERS.get(label, "o")}
        axes.plot(shares, known, ls="none", ms=6, label=label, zorder=3, **style)
    for row in means:
        if row.get("bias") is not None:
            axes.axvline(100 * row["bias"].value, color=colours[row["model"]], lw=1.2)
    axes.set_yticks(range(len(order)), order)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.set(xlabel="decisions for the shape, % of those for shape or texture", ylabel="shape")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def accuracy_figure(observers: Mapping[str, Sequence[Trials]], colours: Colours) -> Figure | None:
    """Draw each observer's accuracy by condition, a panel for each data set that has several.

    Args:
        observers: The trials of each observer.
        colours: The colour of each observer.

    Returns:
        The figure, or None if there is no such data set.
    """
    first = next(iter(observers.values()))
    names = list(dict.fromkeys(each.dataset for each in first if each.dataset in CONDITIONS))
    if not names:
        return None
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    size = (min(WIDTH, 1.2 + 3 * columns), 0.8 + 2.2 * rows)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, name in zip(grid.ravel(), names, strict=False):
        for label, trials in observers.items():
            own = [each for each in trials if each.dataset == name]
            rights = [each.right[:, observers_of(label)].ravel() for each in own]
            value, low, high = 100 * np.array([astuple(share(right)) for right in rights]).T
            style = {"color": colours[label], "marker": MARKERS.get(label, "o"), "ms": 3.5}
            (handles[label],) = axes.plot(range(len(own)), value, **style)
            axes.fill_between(
                range(len(own)), low, high, color=colours[label], alpha=0.15, linewidth=0
            )
        for place, each in enumerate(own):
            if not each.counts:
                axes.axvspan(place - 0.5, place + 0.5, color="0.93", linewidth=0, zorder=0)
        ticks = [each.condition.split("-")[0] for each in own]
        axes.set_xticks(range(len(own)), ticks, fontsize=8)
        axes.set_xlim(-0.5, len(own) - 0.5)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(UNITS[name], fontsize=8)
        handles["chance"] = axes.axhline(100 / 16, color="0.5", ls=":", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set(ylabel="accuracy, %", ylim=(0, 100))
    for axes in grid.ravel()[len(names) :]:
        axes.set_axis_off()
    handles["does not count"] = Patch(color="0.93")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False
    )
    return figure
