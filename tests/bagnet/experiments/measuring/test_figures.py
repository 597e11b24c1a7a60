"""The charts: every network can be told from the others, in the same colour everywhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bagnet.evidence.pictures.plots import rgb
from bagnet.experiments.measuring.colours import KNOWN, OTHERS, network_colours
from bagnet.experiments.measuring.figures import (
    Curve,
    bar_figure,
    line_figure,
    panel_figure,
    point_figure,
)
from bagnet.experiments.measuring.statistics import Interval
from bagnet.model.registry import MODELS

COLOURS = {"a": "#ff0000", "b": "#00ff00", "c": "#0000ff"}
EQUAL = [
    {"model": model, "side": side, "r": Interval(1.0, 1.0, 1.0)}
    for model in COLOURS
    for side in (8, 16)
]


def test_a_network_has_its_colour_in_the_figures_of_all_experiments(tmp_path):
    first = network_colours(tmp_path, ["mine", "bagnet33"])
    second = network_colours(tmp_path, ["a", "mine"])
    assert second["mine"] == first["mine"] == OTHERS[0]
    assert second["a"] == OTHERS[1]
    assert json.loads((tmp_path / "colours.json").read_text()) == {
        "mine": OTHERS[0],
        "a": OTHERS[1],
    }
    assert set(KNOWN) <= set(MODELS)
    assert len({*KNOWN.values(), *OTHERS}) == len(KNOWN) + len(OTHERS)


def test_networks_alone_need_no_file(tmp_path):
    assert network_colours(tmp_path, ["bagnet9"])["bagnet9"] == KNOWN["bagnet9"]
    assert not list(tmp_path.iterdir())


def test_no_network_hides_another_with_the_same_numbers():
    ticks = {8: "8", 16: "16"}
    figure = line_figure(EQUAL, "side", {"r": "r"}, "side", COLOURS, ticks=ticks, ylim=(0, 1.02))
    (axes,) = figure.axes
    places = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert len(set(places)) == 3
    assert max(places) < 0.5 < min(line.get_xdata()[1] for line in axes.lines[:1])
    pixels = rgb(figure).reshape(-1, 3) / 255
    for colour in COLOURS.values():
        assert (np.abs(pixels - to_rgb(colour)).max(1) < 0.01).sum() > 50


def test_points_of_networks_are_below_each_other_and_one_that_lacks_a_word_has_none_there():
    rows = [{"model": "a", "method": "first", "r": Interval(0.5, 0.4, 0.7)}]
    rows += [
        {"model": model, "method": "second", "r": Interval(-0.2, -0.3, -0.1)} for model in COLOURS
    ]
    (axes,) = point_figure(rows, "method", "r", "r", COLOURS).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert axes.yaxis_inverted()
    points = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "o"]
    (first, second), ((x, y),), ((_, last),) = points
    assert (first[0], x) == (0.5, -0.2)
    assert first[1] < 0.5 < second[1] < y < last < 1.5
    assert axes.get_xlim()[0] < -0.3


def test_chance_is_drawn_in_percent():
    figure = line_figure(
        [{"model": "a", "count": 1, "top1": Interval(0.4, 0.3, 0.5)}],
        "count",
        {"top1": "accuracy, %"},
        "tiles",
        COLOURS,
        ticks={1: "as it is"},
        percent=True,
        chance={"top1": 0.1},
    )
    heights = {float(line.get_ydata()[0]) for line in figure.axes[0].lines}
    assert {10.0, 40.0} <= heights
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "chance"]


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_panels_fit_a_page_and_have_bands(count):
    curve = Curve([0, 1, 2], [3, 2, 1], np.array([[2, 1, 0], [4, 3, 2]]), {"color": "red"})
    figure = panel_figure({f"net {n}": {"m": curve} for n in range(count)}, "cells", "p")
    assert figure.get_figwidth() <= 9
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == [f"net {n}" for n in range(count)]
    assert all(len(axes.collections) == 1 for axes in shown)
    below = [axes for axes in shown if axes.get_xlabel()]
    assert len(below) == min(3, count)
    pixels = rgb(figure)
    for rim in (pixels[:1], pixels[-1:], pixels[:, :1], pixels[:, -1:]):  # nothing is cut off
        assert (rim == 255).all()


def test_bars_have_the_colour_of_their_network():
    row = {"top5": Interval(0.9, 0.8, 1.0), "top1": Interval(0.5, 0.4, 0.6), "paper": None}
    figure = bar_figure(
        [row | {"model": "a"}, row | {"model": "b"}],
        {"top5": "top-5", "top1": "top-1"},
        ("paper", "in the paper"),
        "accuracy, %",
        COLOURS,
    )
    bars = [bar.get_facecolor()[:3] for bar in figure.axes[0].patches]
    assert bars == [to_rgb(COLOURS[label]) for label in ("a", "b", "a", "b")]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["top-5", "top-1"]


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[1]", '{"mine": 5}', '{"mine": "odd"}'])
def test_a_damaged_file_of_colours_is_named(tmp_path, text):
    (tmp_path / "colours.json").write_text(text)
    with pytest.raises(ValueError, match=r"colours\.json is .* correct or delete it"):
        network_colours(tmp_path, ["mine"])
