"""Squares that are replaced: what they become, and that nothing else changes."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from bagnet.experiments.measuring.masking import cells, draw_pairs, every_second, replace
from bagnet.experiments.options import Fill


@pytest.fixture
def images():
    return torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fill", get_args(Fill))
def test_boxes_get_their_colour_and_nothing_else_changes(fill, images):
    before, boxes = images.clone(), [(0, 2, 4, 6), (8, 6, 12, 10)]
    filled = replace(images, boxes, fill)
    changed = torch.zeros(12, 10, dtype=torch.bool)
    for top, left, bottom, right in boxes:
        box = (..., slice(top, bottom), slice(left, right))
        changed[box] = True
        colours = {"image": images, "mean": images[box], "zero": torch.zeros(2, 3, 1, 1)}
        if fill in colours:
            colour = colours[fill].mean((2, 3), keepdim=True)
            torch.testing.assert_close(filled[box], colour.expand_as(filled[box]))
    assert ((filled != images).any(1) == changed).all()
    assert torch.equal(images, before)


def test_a_blurred_box_keeps_the_colours_and_loses_the_detail(images):
    waves = torch.arange(64.0).fmod(2)[None, None, None].expand(1, 3, 64, 64) + 1
    box = replace(waves, [(24, 24, 32, 32)], "blur")[..., 24:32, 24:32]
    torch.testing.assert_close(box, torch.full_like(box, 1.5), rtol=0, atol=0.01)


def test_boxes_larger_than_half_of_the_image_can_be_blurred(images):
    assert replace(images, [(0, 0, 10, 10)], "blur").isfinite().all()


def test_every_second_square_of_every_second_row_is_replaced():
    boxes = every_second(40, 30, 8)  # a grid of 5x3, and a rest of 6 px
    assert boxes == [(t, le, t + 8, le + 8) for t in (0, 16, 32) for le in (0, 16)]


def test_pairs_lie_in_the_image_with_their_gap_between_them():
    pairs = draw_pairs(40, 50, 8, 20, 50, np.random.default_rng(0))
    starts = set()
    for number, (first, second) in enumerate(pairs):
        top, left, bottom, right = first
        assert (bottom - top, right - left) == (8, 8)
        assert min(first) >= 0
        assert second[2] <= 40
        assert second[3] <= 50
        if number % 2:
            assert (second[0] - bottom, second[1] - left) == (20, 0)
        else:
            assert (second[1] - right, second[0] - top) == (20, 0)
        starts.add((top, left))
    assert len(starts) > 30


def test_squares_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"--sides 24.*fewer than two.*at most 21"):
        every_second(64, 64, 24)
    fits = r"no pair of squares of 16 px with a gap of 40 px.*at most 32"
    with pytest.raises(ValueError, match=fits):
        draw_pairs(64, 64, 16, 40, 1, np.random.default_rng(0))


def test_the_cells_of_a_grid_cover_an_image_once():
    covered = torch.zeros(20, 13, dtype=torch.long)
    for top, left, bottom, right in cells(20, 13, 8):
        covered[top:bottom, left:right] += 1
        assert bottom <= 20
        assert right <= 13
    assert (covered == 1).all()
    assert cells(20, 13, 8)[:3] == [(0, 0, 8, 8), (0, 8, 8, 13), (8, 0, 16, 8)]
