"""Shuffled tiles, and decisions on them: by networks that cannot or must not notice."""

from __future__ import annotations

import pytest
import torch

from bagnet.experiments.decisions.scrambling import ShuffledTiles, decisions
from bagnet.experiments.decisions.tiles import orders, shuffle_tiles
from bagnet.model.registry import normalize
from bagnet.training.metrics import rank_of_label
from tests.bagnet.experiments.bags import Histogram, pictures, tiny_bagnet


def test_only_the_first_of_equal_logits_is_right_and_nan_never_is():
    nan = float("nan")
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [nan, 1.0, 0.0], [nan, 1.0, 0.0]])
    labels = torch.tensor([0, 1, 0, 1])
    columns = decisions(logits, labels, "image")
    assert columns["rank_image"].tolist() == [0, 1, 3, 1]
    assert columns["rank_image"].tolist() == rank_of_label(logits, labels).tolist()
    assert columns["predicted_image"].tolist()[:2] == [0, 0]


@pytest.mark.parametrize("count", [2, 4, 7, 14])
def test_a_network_that_does_not_know_the_order_decides_the_same_in_any_order(count):
    images, labels, ids = pictures(5, 56), torch.arange(5), torch.arange(5)
    shuffled = shuffle_tiles(images, orders(count, ids, seed=0))
    assert not torch.equal(shuffled, images)
    model = Histogram()
    assert torch.equal(model(normalize(shuffled)), model(normalize(images)))

    def coarse(x):
        return model(x) // 400  # many logits are equal

    columns = ShuffledTiles((count,), 0)(coarse, images, labels, ids)
    assert set(columns) == {f"{key}_{n}" for key in ("predicted", "rank") for n in (1, count)}
    for key in ("rank", "predicted"):
        assert (columns[f"{key}_{count}"] == columns[f"{key}_1"]).all()


def test_tiles_change_places_whole():
    image = torch.arange(6 * 4).view(1, 1, 6, 4)
    shuffled = shuffle_tiles(image, torch.tensor([[2, 0, 3, 1]]))[0, 0]
    for place, tile in enumerate([2, 0, 3, 1]):
        rows, columns = (
            (slice(n // 2 * 3, n // 2 * 3 + 3), slice(n % 2 * 2, n % 2 * 2 + 2))
            for n in (place, tile)
        )
        assert torch.equal(shuffled[rows], image[0, 0][columns])


def test_an_order_is_drawn_by_seed_and_sample_whatever_the_batch():
    ids = torch.tensor([3, 70000, 5])
    together = orders(4, ids, seed=1)
    assert (together.sort(1)[0] == torch.arange(16)).all()
    assert len(together.unique(dim=0)) == 3
    for row in range(3):
        assert torch.equal(orders(4, ids[row, None], seed=1)[0], together[row])
    assert (orders(4, ids, seed=2) != together).any()


def test_every_order_without_a_tile_in_its_place_is_as_likely():
    drawn = orders(2, torch.arange(9 * 100), seed=0)
    assert not (drawn == torch.arange(4)).any()
    _, counts = drawn.unique(dim=0, return_counts=True)
    assert len(counts) == 9
    assert (counts - 100).abs().max() < 5 * 100**0.5
    assert not (orders(16, torch.arange(20), seed=0) == torch.arange(256)).any()
    assert orders(1, torch.arange(2), seed=0).tolist() == [[0], [0]]


@torch.no_grad()
def test_only_the_patches_across_the_seams_of_a_bagnet_change():
    """A patch of 9 px lies in its tile of 16 px if it starts at pixel 0, but not at pixel 8."""
    model = tiny_bagnet(9)
    images = normalize(pictures(2, 64), torch.float64)
    order = orders(4, torch.arange(2), seed=0)
    before = model.logits_map(images)[..., ::2, ::2]
    after = model.logits_map(shuffle_tiles(images, order))[..., ::2, ::2]
    torch.testing.assert_close(after, shuffle_tiles(before, order), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(after.mean((2, 3)), before.mean((2, 3)))
