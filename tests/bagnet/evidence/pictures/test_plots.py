"""Heatmaps: in the right place, in the right colours, and the same every time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bagnet.evidence.pictures.plots import Example, colour_limit, contact_sheet, edges, save_png
from bagnet.model.network import BagNet

SIZE = 97
BOX = BagNet(33, num_classes=2, width=2).box


def example(evidence: np.ndarray, predicted: str = "cat", **other: object) -> Example:
    image = np.full((SIZE, SIZE, 3), 128, dtype=np.uint8)
    return Example(image, evidence, float(evidence.mean()), "cat", predicted, **other)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).astype(int)


def test_the_limit_is_symmetric_and_ignores_outliers() -> None:
    values = np.linspace(-3, 1, 1001)
    assert colour_limit(values) == pytest.approx(np.percentile(np.abs(values), 99))
    values[0] = 1e6
    assert colour_limit(values) < 3.1
    assert colour_limit(np.zeros((2, 2))) > 0


def test_edges_are_where_the_image_changes_in_colour_or_brightness() -> None:
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    image[:, :10, 0] = image[:, 10:, 1] = 200  # red beside green, equally bright
    strength = edges(image)
    assert strength.shape == (20, 20)
    assert strength[:, 9:11].min() == 1
    assert strength[:, :8].max() == strength[:, 12:].max() == 0
    assert not edges(np.zeros((5, 5, 3), dtype=np.uint8)).any()


def test_an_entry_is_drawn_around_the_centre_of_its_patch(tmp_path: Path) -> None:
    """A strong entry is red at its patch's centre; there is no colour where no patch has one."""
    evidence = np.full((9, 9), -10.0)  # blue
    evidence[2, 7] = 10.0
    figure = contact_sheet([example(evidence)], BOX)
    save_png(figure, tmp_path / "sheet.png")
    image = pixels(tmp_path / "sheet.png")
    heat = figure.axes[1]

    def colour(y: float, x: float) -> np.ndarray:
        column, row = heat.transData.transform((x, y))
        return image[round(len(image) - 1 - row), round(column)]

    top, left, bottom, right = BOX(2, 7)
    red = colour((top + bottom) / 2, (left + right) / 2)
    blue = colour((top + bottom) / 2, (left + right) / 2 - 8)
    bare = colour(5, 5)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert np.ptp(bare) == 0
    # The cells end half a stride beyond the outermost centres.
    assert np.ptp(colour(SIZE - 11, 50)) == 0
    assert np.ptp(colour(SIZE - 14, 50)) > 50


def test_weak_evidence_is_as_visible_as_strong_and_the_picture_states_its_scale() -> None:
    strong = np.random.default_rng(0).normal(0, 50, (9, 9))
    figure = contact_sheet([example(strong), example(strong / 1000)], BOX)
    maps = [figure.axes[k].images[0] for k in (1, 3)]
    colours = [each.to_rgba(each.get_array()) for each in maps]
    np.testing.assert_allclose(*colours, atol=0.01)
    stated = [figure.axes[k].get_title(loc="right") for k in (1, 3)]
    limit = colour_limit(strong)
    assert stated == [f"s = {limit:.3g}", f"s = {limit / 1000:.3g}"]
    assert "s: each map's own scale" in figure.axes[-1].get_xlabel()


def test_captions_say_classes_logit_and_mean() -> None:
    evidence = np.arange(16.0).reshape(4, 4)
    figure = contact_sheet([example(evidence), example(evidence, "dog")], BOX)
    right, wrong = (figure.axes[k].get_title(loc="left") for k in (0, 2))
    assert right == "cat\nlogit 7.500 = mean evidence 7.500"
    assert wrong.startswith("cat, taken for dog\n")


def test_every_example_has_its_pair_and_the_bar_has_units() -> None:
    figure = contact_sheet([example(np.eye(4))] * 5, BOX, columns=2)
    *pairs, bar = figure.axes
    assert len(pairs) == 10
    assert "logits" in bar.get_xlabel()
    low, high = bar.get_xlim()
    assert low == -high


def test_planted_boxes_are_outlined_on_the_image() -> None:
    planted = ((10, 20, 40, 50),)
    figure = contact_sheet([example(np.eye(4), planted=planted)], BOX)
    outlines = {patch.get_bbox().bounds for patch in figure.axes[0].patches}
    assert (20, 10, 30, 30) in outlines  # left, top, width, height
    strongest = BOX(0, 0)
    assert (strongest[1], strongest[0], 33, 33) in outlines


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_png(contact_sheet([example(np.eye(4))], BOX), tmp_path / "new" / name)
    a, b = ((tmp_path / "new" / name).read_bytes() for name in ("a.png", "b.png"))
    assert a == b
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]


def test_one_patch_is_enough(tmp_path: Path) -> None:
    save_png(contact_sheet([example(np.zeros((1, 1)))], BOX), tmp_path / "one.png")
    assert pixels(tmp_path / "one.png").size
