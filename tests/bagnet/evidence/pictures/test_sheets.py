"""Sheets of patches show the right pixels, and nothing is cut off."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from bagnet.evidence.pictures.plots import colour_limit, rgb
from bagnet.evidence.pictures.sheets import Mistake, apart, mistake_sheet, patch_sheet


def box(i: int, j: int) -> tuple[int, int, int, int]:
    return 8 * i, 8 * j, 8 * i + 17, 8 * j + 17


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_title(loc="left"), axes.get_xlabel()]
    return [text for text in found if text]


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """The outermost pixels are white."""
    pixels = rgb(figure)
    for rim in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
        assert (rim == 255).all()


def image(side: int = 49) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def mistake(side: int = 49) -> Mistake:
    entries = (side - 17) // 8 + 1
    evidence = np.random.default_rng(1).normal(0, 9, (2, entries, entries))
    means = evidence.mean((1, 2))
    return Mistake(image(side), "a.jpg", "cat", "dog", (means[0], means[1]), evidence)


def test_every_patch_is_drawn_with_its_caption_below_its_heading():
    rng = np.random.default_rng(0)
    patches = [rng.integers(0, 256, (17, 17, 3), dtype=np.uint8) for _ in range(5)]
    captions = ["1.0", "0.5", "0.2", "2.0 dog", "1.5 cow"]
    pairs = list(zip(patches, captions, strict=True))
    figure = patch_sheet({"cat": {"own": pairs[:3], "others": pairs[3:]}})
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    for array, patch in zip(drawn, patches, strict=True):
        np.testing.assert_array_equal(array, patch)
    assert [axes.get_xlabel() for axes in figure.axes] == captions
    assert {"cat", "own", "others"} <= set(texts(figure))
    assert_nothing_is_cut_off(figure)


def test_long_names_of_classes_are_whole_and_rows_without_images_say_so():
    patch = np.zeros((9, 9, 3), dtype=np.uint8)
    name = "yellow-turquoise checks"
    figure = patch_sheet({"cat": {"own": [], "others": [(patch, f"9.9\n{name}")] * 3}, "dog": {}})
    assert figure.axes[0].get_xlabel() == "9.9\nyellow-turquoise\nchecks"
    assert "no images" in texts(figure)
    assert_nothing_is_cut_off(figure)
    renderer = figure.canvas.get_renderer()
    boxes = [axes.xaxis.label.get_window_extent(renderer) for axes in figure.axes]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    fewer = patch_sheet({"cat": {"own": [(patch, "1")], "others": [(patch, "1")] * 2}})
    assert "no more images" in texts(fewer)


@pytest.mark.parametrize("side", [33, 49, 121])
def test_a_mistake_shows_what_argued_for_both_classes(side):
    wrong = mistake(side)
    figure = mistake_sheet([wrong, wrong], box, patches=3)
    assert_nothing_is_cut_off(figure)
    found = texts(figure)
    assert found.count("a.jpg: cat, taken for dog") == 2
    for logit in wrong.logits:
        assert found.count(f"mean evidence {logit:.3f} = logit {logit:.3f}") == 2
    assert sum("s = " in text for text in found) == 4
    strongest = [apart(evidence, box, 3) for evidence in wrong.evidence]
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    for entry in (entry for entries in strongest for entry in entries):
        top, left, bottom, right = box(*entry)
        patch = wrong.image[top:bottom, left:right]
        assert sum(np.array_equal(array, patch) for array in drawn) >= 2


def test_a_weak_map_of_a_mistake_is_as_visible_as_the_strong_one_beside_it():
    wrong = mistake()
    weak = wrong.evidence[1] / 1000
    wrong = replace(wrong, evidence=np.stack([wrong.evidence[1], weak]))
    figure = mistake_sheet([wrong], box)
    for_dog, for_cat = (
        next(axes for axes in figure.axes if axes.get_title().startswith(f"for {name}, s = "))
        for name in ("dog", "cat")
    )
    colours = [axes.images[0].to_rgba(axes.images[0].get_array()) for axes in (for_dog, for_cat)]
    np.testing.assert_allclose(*colours)
    assert float(for_dog.get_title().split()[-1]) == pytest.approx(colour_limit(weak), rel=0.01)
    for sheet in (figure, patch_sheet({"cat": {"own": [(wrong.image[:17, :17], "9.9")]}})):
        assert "its evidence, in logits" in " ".join(texts(sheet))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    count=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_chosen_patches_are_the_strongest_that_do_not_overlap(rows, columns, count, seed):
    evidence = np.random.default_rng(seed).normal(size=(rows, columns))
    chosen = apart(evidence, box, count)
    assert chosen[0] == np.unravel_index(evidence.argmax(), evidence.shape)
    assert len(chosen) <= count
    values = [evidence[entry] for entry in chosen]
    assert values == sorted(values, reverse=True)

    def overlap(one, other):
        return abs(one[0] - other[0]) * 8 < 17 and abs(one[1] - other[1]) * 8 < 17

    assert not any(overlap(*pair) for pair in combinations(chosen, 2))
    for entry in np.ndindex(rows, columns):  # an entry that was skipped overlaps a stronger one
        if entry not in chosen and (len(chosen) < count or evidence[entry] > values[-1]):
            assert any(
                overlap(entry, other) and evidence[other] > evidence[entry] for other in chosen
            )
