"""Sheets of maps at every pixel: what is outlined in them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from matplotlib.contour import ContourSet

from bagnet.evidence.pictures.heatmaps import Heatmap, HeatmapRow, heatmap_sheet


def outlines(mask: np.ndarray | None) -> list[ContourSet]:
    """All outlines in a sheet of an image with two maps."""
    maps = [Heatmap(name, "", np.eye(12)) for name in ("a", "b")]
    row = HeatmapRow(np.zeros((12, 12, 3), np.uint8), "title", "file", maps, mask)
    figure = heatmap_sheet([row], "legend", "evidence")
    return [each for axes in figure.axes for each in axes.findobj(ContourSet)]


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        (slice(2, 5), slice(3, 9), (3, 2, 9, 5)),
        (slice(0, 12), slice(0, 12), (0, 0, 12, 12)),  # an outline at the image's edge
    ],
)
def test_a_mask_is_outlined_in_the_image_and_its_maps(rows, columns, box):
    mask = np.zeros((12, 12), bool)
    mask[rows, columns] = True
    found = outlines(mask)
    assert len(found) == 2 * 3  # black on white
    for each in found:
        (path,) = each.get_paths()
        assert path.get_extents().extents == pytest.approx(box)


@pytest.mark.parametrize("mask", [None, np.zeros((12, 12), bool)])
def test_without_a_mask_nothing_is_outlined(mask):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outlines(mask) == []
