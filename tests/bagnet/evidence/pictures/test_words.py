"""Sheets of words show the right patches and votes, and nothing is cut off."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from bagnet.evidence.pictures.words import AGAINST, FOR, Word, word_sheet
from tests.bagnet.evidence.pictures.test_sheets import assert_nothing_is_cut_off, texts


def word(number: int, votes: list[tuple[str, float]], patches: int = 3) -> Word:
    rng = np.random.default_rng(number)
    pixels = [rng.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in range(patches)]
    return Word(f"word {number}", "3.1% of all patches;\nmore", pixels, votes)


def test_each_word_has_its_patches_and_its_votes_in_one_scale():
    words = [word(1, [("cat", 2.5), ("dog", -4.0)]), word(2, [("cow", 0.5)], patches=2)]
    figure = word_sheet(words, "What is shown.")
    patches = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    expected = [patch for each in words for patch in each.patches]
    assert all(np.array_equal(a, b) for a, b in zip(patches, expected, strict=True))
    bars = [axes for axes in figure.axes if axes.patches]
    assert [[bar.get_width() for bar in axes.patches] for axes in bars] == [[2.5, -4.0], [0.5]]
    colours = [bar.get_facecolor()[:3] for axes in bars for bar in axes.patches]
    assert colours == [FOR, AGAINST, FOR]
    assert bars[0].get_xlim() == bars[1].get_xlim()
    names = [[label.get_text() for label in axes.get_yticklabels()] for axes in bars]
    assert names == [["cat", "dog"], ["cow"]]
    assert [text.get_text() for axes in bars for text in axes.texts] == ["+2.5", "-4.0", "+0.5"]
    assert {"word 1", "word 2", "What is shown."} <= set(texts(figure))
    assert_nothing_is_cut_off(figure)


def test_long_names_and_equal_votes_stay_in_their_places():
    votes = [("a very long name of a class that goes on", 0.0)] * 5
    long = word(1, votes, patches=1)
    long = Word(long.title, "of these in\nimages of " + votes[0][0], long.patches, votes)
    figure = word_sheet([long, long], "A legend. " * 30)
    assert_nothing_is_cut_off(figure)
    renderer = figure.canvas.get_renderer()
    image, bars = figure.axes[0], figure.axes[1]
    note = next(text for text in figure.texts if text.get_text().startswith("of these"))
    assert not note.get_window_extent(renderer).overlaps(image.get_window_extent(renderer))
    labels = [label.get_window_extent(renderer) for label in bars.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in combinations(labels, 2))
    assert all(not label.overlaps(image.get_window_extent(renderer)) for label in labels)
